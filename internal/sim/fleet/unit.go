package fleet

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/ahelme/comfyume/internal/fault"
	"github.com/ahelme/comfyume/internal/sim"
)

// Unit is the server of one replica.
type Unit interface {
	Address() string       // of its HTTP server, as http://HOST:PORT
	Busy() bool            // whether its ComfyUI works at a prompt, as far as it says so at once
	Kill()                 // ends it as kill -9 does; may be called again
	Done() <-chan struct{} // closed when it has ended
}

// Launcher starts the server of a replica. Its files belong below dir. When ctx ends it need not start any more.
type Launcher func(ctx context.Context, id int, dir string) (Unit, error)

func number(n int) string { return strconv.Itoa(n) }

// Local returns a launcher of replicas inside this process, which is quick and takes little. adapt, if not nil,
// changes the options of one.
func Local(o sim.Options, adapt func(id int, o *sim.Options)) Launcher {
	return func(_ context.Context, id int, dir string) (Unit, error) {
		mine := o
		mine.Base = dir
		u := &local{done: make(chan struct{})}
		if adapt != nil {
			adapt(id, &mine)
		}
		server, err := sim.NewComfyUI(mine)
		if err != nil {
			return nil, err
		}
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			return nil, errors.Join(err, server.Close())
		}
		u.server, u.address = server, "http://"+l.Addr().String()
		u.http = &http.Server{Handler: server.Handler(), ReadHeaderTimeout: 30 * time.Second}
		go func() {
			_ = u.http.Serve(l) // it ends when it is closed
		}()
		return u, nil
	}
}

type local struct {
	address string
	server  *sim.ComfyUI
	http    *http.Server
	once    sync.Once
	done    chan struct{}
}

func (u *local) Address() string       { return u.address }
func (u *local) Busy() bool            { return busy(u.address) }
func (u *local) Done() <-chan struct{} { return u.done }

func (u *local) Kill() {
	u.once.Do(func() {
		go func() { // the run that goes on is given up, which takes a moment
			defer close(u.done)
			u.http.Close()   //nolint:errcheck // it is to die
			u.server.Close() //nolint:errcheck // as above
		}()
	})
}

// busy asks a ComfyUI whether its queue is empty.
func busy(address string) bool {
	client := &http.Client{Timeout: 200 * time.Millisecond, Transport: &http.Transport{DisableKeepAlives: true}}
	resp, err := client.Get(address + "/prompt")
	if err != nil {
		return false
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(io.LimitReader(resp.Body, 1<<10))
	return err == nil && resp.StatusCode == http.StatusOK && !strings.Contains(string(b), `"queue_remaining": 0`) &&
		!strings.Contains(string(b), `"queue_remaining":0`)
}

// Program is one program of a replica: Args for the replica's id, its folder, and the address of the program before it,
// which is empty for the first. A line on its standard output has to say its address, as http://HOST:PORT.
type Program struct {
	Path string
	Args func(id int, dir, before string) []string
	Env  []string // added to this process's
	Logs io.Writer
}

// Programs returns a launcher of replicas that are processes. Requests go to the last program of each.
func Programs(chain ...Program) Launcher {
	return func(ctx context.Context, id int, dir string) (Unit, error) {
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return nil, err
		}
		u := &processes{done: make(chan struct{})}
		for _, p := range chain {
			address, err := u.start(ctx, p, p.Args(id, dir, u.address))
			if err != nil {
				u.Kill()
				u.ends.Wait()
				return nil, fault.Wrap(fault.Unavailable, err, "The program %s of simulated replica %d did not start.", filepath.Base(p.Path), id)
			}
			if u.comfy == "" {
				u.comfy = address
			}
			u.address = address
		}
		go func() {
			u.ends.Wait()
			close(u.done)
		}()
		return u, nil
	}
}

type processes struct {
	address string // of the last program
	comfy   string // of the first
	ends    sync.WaitGroup
	done    chan struct{}

	mu       sync.Mutex
	commands []*exec.Cmd
	killed   bool
}

func (u *processes) Address() string       { return u.address }
func (u *processes) Busy() bool            { return busy(u.comfy) }
func (u *processes) Done() <-chan struct{} { return u.done }

// addressLine is how a program says where it is.
var addressLine = regexp.MustCompile(`https?://[0-9A-Za-z.\[\]:-]+:[0-9]+`)

// startsWithin is how long a program may take to say its address.
const startsWithin = 30 * time.Second

func (u *processes) start(ctx context.Context, p Program, args []string) (string, error) {
	cmd := exec.Command(p.Path, args...)
	cmd.Env = append(os.Environ(), p.Env...)
	cmd.Stderr = p.Logs
	out, err := cmd.StdoutPipe()
	if err != nil {
		return "", err
	}
	if err := cmd.Start(); err != nil {
		return "", err
	}
	u.mu.Lock()
	u.commands = append(u.commands, cmd)
	if u.killed { // the program before it has ended meanwhile
		_ = cmd.Process.Kill()
	}
	u.mu.Unlock()
	said, ended := make(chan string, 1), make(chan struct{})
	u.ends.Go(func() {
		defer close(ended)
		lines := bufio.NewScanner(out)
		for lines.Scan() {
			if address := addressLine.FindString(lines.Text()); address != "" {
				select {
				case said <- address:
				default:
				}
			}
			if p.Logs != nil {
				fmt.Fprintln(p.Logs, lines.Text())
			}
		}
		_ = cmd.Wait() // it was killed, or its log says why
		u.Kill()       // a replica is whole or gone
	})
	timer := time.NewTimer(startsWithin)
	defer timer.Stop()
	select {
	case address := <-said:
		return address, nil
	case <-ended:
		return "", errors.New("it ended before it said its address")
	case <-timer.C:
		return "", fmt.Errorf("it did not say its address within %v", startsWithin)
	case <-ctx.Done():
		return "", context.Cause(ctx)
	}
}

// Kill ends the programs, the one in front first: nobody sees one without the other.
func (u *processes) Kill() {
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.killed {
		return
	}
	u.killed = true
	for i := len(u.commands) - 1; i >= 0; i-- {
		_ = u.commands[i].Process.Kill() // it may be over
	}
}
