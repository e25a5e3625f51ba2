package cli

import (
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/ahelme/comfyume/internal/api"
	"github.com/ahelme/comfyume/internal/app"
	"github.com/ahelme/comfyume/internal/client"
	"github.com/ahelme/comfyume/internal/config"
)

// verdaCmd is about the provider of serverless containers.
type verdaCmd struct {
	List      verdaList      `cmd:"" help:"List the deployments at Verda."`
	Status    verdaStatus    `cmd:"" help:"Show a deployment with its scaling, containers and environment."`
	Scale     verdaScale     `cmd:"" help:"Show or change how a deployment scales."`
	Env       verdaEnv       `cmd:"" help:"Show or change the environment of a deployment."`
	Pause     verdaPause     `cmd:"" help:"Stop all containers of a deployment; requests to it are refused meanwhile."`
	Resume    verdaResume    `cmd:"" help:"End a pause."`
	Restart   verdaRestart   `cmd:"" help:"Replace all containers of a deployment; what they work on is lost."`
	Purge     verdaPurge     `cmd:"" help:"Drop the requests that wait in the provider's queue."`
	Replicas  verdaReplicas  `cmd:"" help:"List the containers that run or start."`
	Available verdaAvailable `cmd:"" help:"Say which GPUs are to be had right now."`
	Drift     verdaDrift     `cmd:"" help:"Say how deployments differ from the settings and from each other."`
}

// verda asks the studio that runs about its provider, else the provider itself with the settings' credential.
func (c *call) verda(fn func(api.Verda) error) error {
	if c.root.Server != "" {
		return c.ask(false, func(s *client.Client) error { return fn(s.Verda()) })
	}
	settings, err := config.Load(c.source())
	if err != nil {
		return err
	}
	path, err := app.SocketPath(settings.Data, c.getenv("XDG_RUNTIME_DIR"))
	if err != nil {
		return err
	}
	if app.SocketIsOurs(path) {
		over := client.Socket(path)
		defer over.Close()
		if over.Answers(c.ctx) {
			return fn(over.Verda())
		}
	}
	o, err := c.options(settings)
	if err != nil {
		return err
	}
	direct, closeDirect := app.Verda(o)
	defer closeDirect()
	return fn(direct)
}

// deploymentArg is the argument that names a deployment.
type deploymentArg struct {
	Name string `arg:"" help:"Deployment, or back end that uses it."`
}

type verdaList struct{}

// Run lists deployments.
func (*verdaList) Run(c *call) error {
	return c.verda(func(v api.Verda) error {
		list, err := v.Deployments(c.ctx)
		if err != nil {
			return err
		}
		return c.print(list, func(w io.Writer) {
			rows := make([][]string, 0, len(list))
			for _, d := range list {
				rows = append(rows, []string{
					d.Name, dash(d.BackEnd), d.Status, gpus(d.GPU, d.GPUs), map[bool]string{true: "spot", false: "-"}[d.Spot],
					fmt.Sprintf("%d of %d-%d", d.Replicas, d.Min, d.Max), money(d.AwakeCost), d.Image, d.Trouble,
				})
			}
			table(w, []string{"NAME", "BACK END", "STATUS", "GPU", "", "AWAKE", "PER HOUR", "IMAGE", ""}, rows)
		})
	})
}

func gpus(name string, n int) string {
	if n > 1 {
		return fmt.Sprintf("%d x %s", n, name)
	}
	return name
}

func money(m float64) string {
	if m == 0 {
		return "-"
	}
	return fmt.Sprintf("%.2f", m)
}

type verdaStatus struct{ deploymentArg }

// Run shows a deployment. One that is not healthy is a problem found.
func (cmd *verdaStatus) Run(c *call) error {
	return c.verda(func(v api.Verda) error {
		d, err := v.Deployment(c.ctx, cmd.Name)
		if err != nil {
			return err
		}
		if err := c.print(d, func(w io.Writer) { printDeployment(w, d) }); err != nil {
			return err
		}
		if d.Status != "healthy" {
			return errFound
		}
		return nil
	})
}

func printDeployment(w io.Writer, d api.DeploymentDetail) {
	kind := "on demand"
	if d.Spot {
		kind = "spot"
	}
	fmt.Fprintf(w, "name      %s\nback end  %s\nstatus    %s\nGPU       %s, %s\naddress   %s\nimage     %s\n",
		d.Name, dash(d.BackEnd), d.Status, gpus(d.GPU, d.GPUs), kind, d.Endpoint, d.Image)
	fmt.Fprintf(w, "command   %s\n", dash(strings.Join(d.Command, " ")))
	for _, m := range d.Mounts {
		fmt.Fprintf(w, "mount     %s\n", m)
	}
	printScaling(w, d)
	for _, v := range d.Variables {
		fmt.Fprintf(w, "variable  %s\n", variable(v))
	}
	if len(d.Running) > 0 {
		fmt.Fprintln(w)
		printReplicas(w, d.Running)
	}
}

func printScaling(w io.Writer, d api.DeploymentDetail) {
	fmt.Fprintf(w, "scaling   %d to %d containers, %d requests each, %s in the queue at most\n", d.Min, d.Max, d.Concurrent, seconds(d.TTL))
	fmt.Fprintf(w, "          up after %s, down after %s\n", seconds(d.Up), seconds(d.Down))
	if d.AwakeCost > 0 {
		fmt.Fprintf(w, "awake     %.2f per hour\n", d.AwakeCost)
	}
	if d.Raised != "" {
		fmt.Fprintf(w, "plan      %s\n", d.Raised)
	}
}

func seconds(n int) string {
	if n == 0 {
		return "0s"
	}
	return config.Duration(time.Duration(n) * time.Second).String()
}

func variable(v api.Variable) string {
	switch {
	case v.Secret != "":
		return v.Name + " = secret " + v.Secret
	case v.InClear:
		return v.Name + " = " + v.Value + " (a secret in clear)"
	default:
		return v.Name + " = " + v.Value
	}
}

type verdaReplicas struct{ deploymentArg }

// Run lists containers.
func (cmd *verdaReplicas) Run(c *call) error {
	return c.verda(func(v api.Verda) error {
		list, err := v.Replicas(c.ctx, cmd.Name)
		if err != nil {
			return err
		}
		return c.print(list, func(w io.Writer) { printReplicas(w, list) })
	})
}

func printReplicas(w io.Writer, list []api.Replica) {
	rows := make([][]string, 0, len(list))
	for _, r := range list {
		rows = append(rows, []string{r.ID, r.Status, ago(&r.Started)})
	}
	table(w, []string{"CONTAINER", "STATUS", "SINCE"}, rows)
}

type verdaAvailable struct{}

// Run lists GPUs.
func (*verdaAvailable) Run(c *call) error {
	return c.verda(func(v api.Verda) error {
		list, err := v.Available(c.ctx)
		if err != nil {
			return err
		}
		return c.print(list, func(w io.Writer) {
			rows := make([][]string, 0, len(list))
			for _, r := range list {
				rows = append(rows, []string{r.GPU, strconv.Itoa(r.GPUs), map[bool]string{true: "yes", false: "no"}[r.Available]})
			}
			table(w, []string{"GPU", "NUMBER", "NOW"}, rows)
		})
	})
}

type verdaPause struct{ deploymentArg }

// Run pauses a deployment.
func (cmd *verdaPause) Run(c *call) error { return c.act(cmd.Name, "pause") }

type verdaResume struct{ deploymentArg }

// Run ends a pause.
func (cmd *verdaResume) Run(c *call) error { return c.act(cmd.Name, "resume") }

type verdaRestart struct{ deploymentArg }

// Run replaces containers.
func (cmd *verdaRestart) Run(c *call) error { return c.act(cmd.Name, "restart") }

type verdaPurge struct{ deploymentArg }

// Run drops waiting requests.
func (cmd *verdaPurge) Run(c *call) error { return c.act(cmd.Name, "purge") }

// act does something to a deployment.
func (c *call) act(name, action string) error {
	return c.verda(func(v api.Verda) error {
		if err := v.Act(c.ctx, name, action); err != nil {
			return err
		}
		said := map[string]string{"pause": "paused", "resume": "goes on", "restart": "restarts", "purge": "queue emptied"}[action]
		return c.print(map[string]string{"deployment": name, "done": action}, func(w io.Writer) { fmt.Fprintf(w, "%s: %s\n", name, said) })
	})
}

type verdaScale struct {
	deploymentArg
	Min        *int           `help:"Containers that are always awake." placeholder:"N"`
	Max        *int           `help:"Containers at most." placeholder:"N"`
	Concurrent *int           `help:"Requests that a container gets at the same time." placeholder:"N"`
	TTL        *time.Duration `name:"ttl" help:"How long a request waits in the provider's queue at most." placeholder:"15m"`
	Up         *time.Duration `help:"How long there has to be too much work before a container starts." placeholder:"0s"`
	Down       *time.Duration `help:"How long a container has to be idle before it ends." placeholder:"5m"`
}

// Run shows how a deployment scales, after it was changed where flags say so.
func (cmd *verdaScale) Run(c *call) error {
	ch := api.ScaleChange{Min: cmd.Min, Max: cmd.Max, Concurrent: cmd.Concurrent}
	for _, d := range []struct {
		flag string
		from *time.Duration
		to   **int
	}{{"ttl", cmd.TTL, &ch.TTL}, {"up", cmd.Up, &ch.Up}, {"down", cmd.Down, &ch.Down}} {
		if d.from == nil {
			continue
		}
		if *d.from < 0 || *d.from%time.Second != 0 {
			return wrongUse("--%s %s is no number of whole seconds.", d.flag, *d.from).WithRemedy("Write it like 30s, 15m or 1h.")
		}
		n := int(*d.from / time.Second)
		*d.to = &n
	}
	return c.verda(func(v api.Verda) error {
		var d api.DeploymentDetail
		var err error
		if ch == (api.ScaleChange{}) {
			d, err = v.Deployment(c.ctx, cmd.Name)
		} else {
			d, err = v.Scale(c.ctx, cmd.Name, ch)
		}
		if err != nil {
			return err
		}
		return c.print(d, func(w io.Writer) { printScaling(w, d) })
	})
}

type verdaEnv struct {
	deploymentArg
	Container string   `help:"Container; the first one when left out." placeholder:"NAME"`
	Set       []string `help:"Set a variable that is no secret." placeholder:"NAME=VALUE" sep:"none"`
	Secret    []string `help:"Have a variable refer to a secret at Verda." placeholder:"NAME=SECRET" sep:"none"`
	Remove    []string `help:"Remove a variable." placeholder:"NAME"`
}

// Run shows the environment of a deployment, after it was changed where flags say so.
func (cmd *verdaEnv) Run(c *call) error {
	ch := api.VariableChange{Container: cmd.Container, Remove: cmd.Remove}
	for flag, list := range map[string][]string{"set": cmd.Set, "secret": cmd.Secret} {
		for _, pair := range list {
			name, value, ok := strings.Cut(pair, "=")
			if !ok || name == "" { // what was typed is not repeated: it may be a secret
				return wrongUse("A value of --%s has no =.", flag).WithRemedy("Write --%s NAME=%s.", flag, map[string]string{"set": "VALUE", "secret": "NAME-OF-A-SECRET"}[flag])
			}
			to := &ch.Set
			if flag == "secret" {
				to = &ch.Secrets
			}
			if *to == nil {
				*to = map[string]string{}
			}
			(*to)[name] = value
		}
	}
	for _, name := range cmd.Remove {
		_, set := ch.Set[name]
		_, secret := ch.Secrets[name]
		if set || secret {
			return wrongUse("%s is to be set and removed at the same time.", name).WithRemedy("Do one after the other.")
		}
	}
	return c.verda(func(v api.Verda) error {
		var list []api.Variable
		var err error
		if len(ch.Set)+len(ch.Secrets)+len(ch.Remove) == 0 {
			list, err = v.Variables(c.ctx, cmd.Name)
		} else {
			list, err = v.ChangeVariables(c.ctx, cmd.Name, ch)
		}
		if err != nil {
			return err
		}
		return c.print(list, func(w io.Writer) {
			rows := make([][]string, 0, len(list))
			for _, one := range list {
				name, value, _ := strings.Cut(variable(one), " = ")
				rows = append(rows, []string{one.Container, name, value})
			}
			table(w, []string{"CONTAINER", "NAME", "VALUE"}, rows)
		})
	})
}

type verdaDrift struct {
	Like  string `help:"The deployment that is right where the settings say nothing; more than half of them when left out." placeholder:"NAME"`
	Apply bool   `help:"Make the changes. Containers of deployments that are changed are replaced."`
}

// Run compares deployments. Differences are a problem found, unless the changes took all of them away.
func (cmd *verdaDrift) Run(c *call) error {
	return c.verda(func(v api.Verda) error {
		d, err := v.Drift(c.ctx, cmd.Like, cmd.Apply)
		if err != nil {
			return err
		}
		if err := c.print(d, func(w io.Writer) { printDrift(w, d, cmd.Apply) }); err != nil {
			return err
		}
		if slices.ContainsFunc(d.Findings, func(f api.DriftFinding) bool { return !cmd.Apply || !f.Applies }) {
			return errFound
		}
		return nil
	})
}

func printDrift(w io.Writer, d api.Drift, applied bool) {
	if len(d.Findings) == 0 {
		fmt.Fprintf(w, "No differences: %s.\n", strings.Join(d.Deployments, ", "))
		return
	}
	for _, f := range d.Findings {
		fmt.Fprintln(w, f.Says)
		if f.Remedy != "" {
			fmt.Fprintln(w, "  Try: "+f.Remedy)
		}
	}
	for _, ch := range d.Changes {
		fmt.Fprintln(w)
		if ch.Done {
			fmt.Fprintf(w, "%s was changed.\n", ch.Deployment)
		}
		fmt.Fprintf(w, "%s\n%s\n", ch.Request, ch.Body)
		if strings.Contains(string(ch.Body), "***") {
			fmt.Fprintln(w, "*** is sent as it is there.")
		}
		if ch.Restarts && !ch.Done {
			fmt.Fprintf(w, "The containers of %s are replaced by it.\n", ch.Deployment)
		}
	}
	if len(d.Changes) > 0 && !applied {
		fmt.Fprintln(w, "\nTo make the changes: comfyume backend verda drift --apply")
	}
}
