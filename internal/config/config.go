// Package config holds the settings of a studio as plain data: defaults, then the settings file, then the
// environment, then flags. Everything that is wrong is reported at once, with file, line and a near name.
package config

import "time"

// Config is what can be set. The tag doc is the sentence of the generated reference; yet names what a value
// would do in a later version and does not do in this one.
type Config struct {
	Name           string   `yaml:"name" doc:"title of the studio on its own pages"`
	Listen         string   `yaml:"listen" doc:"editor, ComfyUI protocol and REST interface"`
	PublicURL      string   `yaml:"public_url" doc:"printed in every link; may have a path: https://lab.example/studio"`
	TLS            TLS      `yaml:"tls" doc:"encryption; beyond loopback serve refuses to run without it unless insecure_lan is true"`
	TrustedProxies []string `yaml:"trusted_proxies" doc:"addresses or networks whose X-Forwarded-* and X-Real-IP count"`
	InsecureLAN    bool     `yaml:"insecure_lan" doc:"serve without encryption beyond loopback, and say so"`
	QueueAPI       string   `yaml:"queue_api" doc:"the queue manager's API on a port of its own, beside /qm/ on listen; empty turns it off"`
	Metrics        string   `yaml:"metrics" doc:"/metrics, /healthz and /readyz without sign-in; empty: only on listen, for operators"`
	Data           string   `yaml:"data" doc:"database and files"`
	Store          Address  `yaml:"store" doc:"sqlite; or redis://HOST:6379/0 (rediss://, unix://) for several servers of one studio"`
	Isolation      string   `yaml:"isolation" doc:"shared | strict: strict closes the back ends' node cache between people"`
	Blob           string   `yaml:"blob" doc:"bytes of people's files. file: under data; or file:///mnt/sfs/outputs; or s3://bucket/prefix?endpoint=HOST with keys from AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY. Documents, templates and the database stay under data"`
	Frontend       string   `yaml:"frontend" doc:"auto: the newest installed one; a version; or a folder"`
	ComfyAccount   string   `yaml:"comfy_account" doc:"deny | allow: nodes that spend a person's Comfy credits"`
	Limits         Limits   `yaml:"limits" doc:"what one person or one request may take"`
	Queue          Queue    `yaml:"queue" doc:"order and bounds of the queue"`
	Users          []User   `yaml:"users" doc:"accounts, made at start when missing"`
	Packs          Packs    `yaml:"packs" doc:"custom nodes' files for the editor, which come from the back ends"`
	Backends       []Back   `yaml:"backends" doc:"GPU sources, in order of preference when they disagree about nodes"`

	Budget Budget `yaml:"budget" doc:"what may be spent on back ends that have a price, and when they are worth it"`

	Providers Providers `yaml:"providers" doc:"control interfaces of whoever runs containers for us"`
}

// TLS says how connections are encrypted.
type TLS struct {
	Mode   string `yaml:"mode" doc:"off | files (cert, key) | acme (domain, mail) | self (own CA, certificate to download from the sign-in page)"`
	Cert   string `yaml:"cert" doc:"files: certificate chain, PEM"`
	Key    string `yaml:"key" doc:"files: private key, PEM"`
	Domain string `yaml:"domain" doc:"acme: the name that the certificate is for"`
	Mail   string `yaml:"mail" doc:"acme: where the authority may write to"`
}

// Limits bounds what one person or one request may take.
type Limits struct {
	Upload         Size `yaml:"upload" doc:"largest upload"`
	DiskPerUser    Size `yaml:"disk_per_user" doc:"files of one person"`
	KeepFree       Size `yaml:"keep_free" doc:"below this much free space no new run starts and no upload is taken"`
	SocketsPerUser int  `yaml:"sockets_per_user" doc:"open editor connections of one person"`
}

// Queue is the order and the bounds of the queue.
type Queue struct {
	Mode              string `yaml:"mode" doc:"fifo | round_robin | priority | fair"`
	MaxPending        int    `yaml:"max_pending" doc:"waiting jobs of all people"`
	MaxPendingPerUser int    `yaml:"max_pending_per_user" doc:"waiting jobs of one person"`
	MaxRunningPerUser int    `yaml:"max_running_per_user" doc:"jobs of one person that run at the same time"`

	AgeAfter    Duration `yaml:"age_after" doc:"priority: a job rises by one class each time it has waited so long; 0: never"`
	HalfLife    Duration `yaml:"half_life" doc:"fair: after which what somebody used beyond their share weighs half"`
	Affinity    Duration `yaml:"affinity" doc:"how much GPU time the first in line may be overtaken by, for jobs whose models are loaded already; 0: none"`
	KeepFor     Duration `yaml:"keep_for" doc:"how long finished jobs stay in history; 0: for ever"`
	KeepPerUser int      `yaml:"keep_per_user" doc:"finished jobs of one person that stay in history; 0: all"`
	IdleStop    Duration `yaml:"idle_stop" doc:"an editor that queues by itself stops when nobody touched it for so long; 0: never"`
	Weights     Weights  `yaml:"weights" doc:"fair: how much of the GPU time somebody gets beside others; 1 where nothing is said"`
	Quotas      Quotas   `yaml:"quotas" doc:"how much may be asked for in an hour and in a day; 0: as much as one likes"`
}

// Weights are shares in GPU time. Two people with weights 2 and 1 get two thirds and one third while both have jobs.
type Weights struct {
	Users  map[string]float64 `yaml:"users" doc:"NAME: WEIGHT, inside their group"`
	Groups map[string]float64 `yaml:"groups" doc:"NAME: WEIGHT, inside the studio"`
}

// Quotas bound what people and groups may ask for. A person has to stay within their own and their group's.
type Quotas struct {
	Everyone   Quota            `yaml:"everyone" doc:"of each person"`
	EveryGroup Quota            `yaml:"every_group" doc:"of all people of a group together"`
	Users      map[string]Quota `yaml:"users" doc:"of a person, in place of everyone's"`
	Groups     map[string]Quota `yaml:"groups" doc:"of a group, in place of every_group's"`
}

// Quota is how much may be asked for. Hours and days are those of the clock.
type Quota struct {
	JobsPerHour int      `yaml:"jobs_per_hour" doc:"jobs in an hour"`
	JobsPerDay  int      `yaml:"jobs_per_day" doc:"jobs in a day"`
	GPUPerHour  Duration `yaml:"gpu_per_hour" doc:"GPU time in an hour, such as 45m"`
	GPUPerDay   Duration `yaml:"gpu_per_day" doc:"GPU time in a day"`
}

// Packs says which custom nodes reach people's pages. ComfyUI-Manager never does.
type Packs struct {
	Allow  []string            `yaml:"allow" doc:"packs, by their folder's name; empty: all but the denied ones"`
	Deny   []string            `yaml:"deny" doc:"packs whose files reach nobody"`
	Routes map[string][]string `yaml:"routes" doc:"PACK: [/PATH/]; GET of these addresses of its own goes to a back end that has the pack"`
}

// Budget bounds what is spent on back ends with a price. What has begun is let finish. Hours and days are those of the
// clock.
type Budget struct {
	Wait    Duration         `yaml:"wait" doc:"a back end with a price is used when people would wait longer for the others"`
	PerHour float64          `yaml:"per_hour" doc:"most that is spent in an hour, in the unit of price_per_hour; 0: no bound"`
	PerDay  float64          `yaml:"per_day" doc:"most that is spent in a day; 0: no bound"`
	Groups  map[string]Money `yaml:"groups" doc:"NAME: what a group may spend of that"`
}

// Money is what may be spent.
type Money struct {
	PerHour float64 `yaml:"per_hour" doc:"in an hour; 0: no bound of its own"`
	PerDay  float64 `yaml:"per_day" doc:"in a day; 0: no bound of its own"`
}

// User is an account made at start when missing.
type User struct {
	Name  string `yaml:"name" doc:"lower-case letters, digits, - and _"`
	Role  string `yaml:"role" doc:"participant | instructor | operator"`
	Group string `yaml:"group" doc:"class or team"`
}

// Back is one GPU source.
type Back struct {
	Name   string `yaml:"name" doc:"how it is called in logs and pages"`
	Driver string `yaml:"driver" doc:"comfyui: a server by its address | agent: dials home, joined with a one-time code | serverless: containers behind a balancer"`
	URL    string `yaml:"url" doc:"comfyui and serverless: its address"`
	Key    Secret `yaml:"key" doc:"sent as a bearer token; env:NAME or file:PATH, never in clear"`

	Mode        string   `yaml:"mode" doc:"serverless: agent (one request a job) | plain (ComfyUI behind a balancer) | async (the provider's queue, agent inside)"`
	MaxParallel int      `yaml:"max_parallel" doc:"serverless: jobs that run at the same time; 1 where nothing is said"`
	Storage     string   `yaml:"storage" doc:"where its outputs are left and large inputs found: file:///mnt/sfs/outputs, or s3://bucket/prefix?endpoint=HOST; empty: they go over the wire; mode plain: file:///mnt/sfs/outputs?inputs=/mnt/sfs/inputs, both as its ComfyUI has them"`
	Provider    Provider `yaml:"provider" doc:"serverless: control interface of the provider"`
	Warm        []Warm   `yaml:"warm" doc:"serverless: when containers are kept awake, [{days: mon-fri, from: 09:00, to: 17:00, min: 1}]; by the provider where one is named, else by light requests"`

	Groups       []string          `yaml:"groups" doc:"whose jobs it runs; empty: everybody's"`
	Labels       map[string]string `yaml:"labels" doc:"NAME: TEXT, shown beside it"`
	PricePerHour float64           `yaml:"price_per_hour" doc:"what an hour of it costs; 0: it is ours"`
	Prefer       int               `yaml:"prefer" doc:"the higher one gets a job first; among equals, the cheaper one"`
	MaxRun       Duration          `yaml:"max_run" doc:"a run that takes longer is stopped; 0: never"`
}

// Provider is who runs a serverless endpoint.
type Provider struct {
	Name       string `yaml:"name" doc:"verda"`
	Deployment string `yaml:"deployment" doc:"how the provider calls it"`
}

// Default returns the settings of a studio that nobody configured.
func Default() Config {
	return Config{
		Name:         "ComfyuME",
		Listen:       "127.0.0.1:8080",
		TLS:          TLS{Mode: "off"},
		QueueAPI:     "127.0.0.1:3000",
		Metrics:      "127.0.0.1:9464",
		Data:         "./data",
		Store:        "sqlite",
		Isolation:    "shared",
		Blob:         "file",
		Frontend:     "auto",
		ComfyAccount: "deny",
		Providers:    Providers{Verda: VerdaAccount{URL: "https://api.verda.com/v1"}},
		Limits:       Limits{Upload: 512 * MB, DiskPerUser: 10 * GB, KeepFree: 5 * GB, SocketsPerUser: 32},
		Budget:       Budget{Wait: Duration(2 * time.Minute)},
		Queue: Queue{
			Mode: "fair", MaxPending: 10000, MaxPendingPerUser: 100, MaxRunningPerUser: 2,
			AgeAfter: Duration(10 * time.Minute), HalfLife: Duration(time.Hour), Affinity: Duration(2 * time.Minute),
			KeepFor: Duration(90 * 24 * time.Hour), KeepPerUser: 10000, IdleStop: Duration(30 * time.Minute),
		},
	}
}
