package comfyui

import (
	"context"
	"net/http"
	"net/url"
	"strings"

	"github.com/google/uuid"

	"github.com/ahelme/comfyume/internal/backend"
	"github.com/ahelme/comfyume/internal/backend/apart"
)

// outputsMark is a file in the server's folder of outputs with a random word in it: servers that show the same word write
// to one folder. Pages don't list it.
const outputsMark = ".comfyume-outputs.txt"

// readFolder finds out which folder the server writes to. It reports whether that is certain; it costs no probe.
func (d *Driver) readFolder(ctx context.Context) (sure bool) {
	ctx, cancel := context.WithTimeout(ctx, d.options.RequestTimeout)
	defer cancel()
	word, err := d.readMark(ctx)
	if sure = err == nil && word != ""; !sure && err == nil {
		word = uuid.NewString()
		_, err = d.upload(ctx, "output", "", outputsMark, int64(len(word)), strings.NewReader(word))
	}
	if err != nil {
		say := d.log.Debug
		if !d.probe.folder { // else it was said before
			say = d.log.Warn
		}
		say("it can't be seen whether the server shares its folder of outputs with another", "err", err)
		word, sure = "", true
	}
	d.options.Folders.Note(d, word, sure)
	return sure
}

func (d *Driver) readMark(ctx context.Context) (string, error) {
	status, answer, err := d.do(ctx, http.MethodGet, "/view?type=output&filename="+url.QueryEscape(outputsMark), nil)
	if err != nil || status != http.StatusOK || len(answer) > 64 {
		return "", err
	}
	return string(answer), nil
}

// Prepare uploads the inputs and sees to a socket. On a server that shares its folder of outputs, each run gets folders of
// its own there: such servers number their files on their own, and would choose the same names.
func (d *Driver) Prepare(ctx context.Context, t backend.Task) (backend.Run, error) {
	if d.options.Folders.Shared(d) {
		return apart.Run(ctx, t, d.prepare)
	}
	return d.prepare(ctx, t)
}

// Resume takes up a run that an earlier process may have posted, with folders of its own or without.
func (d *Driver) Resume(ctx context.Context, t backend.Task) (backend.Run, error) {
	if d.options.Folders != nil {
		return apart.Run(ctx, t, d.resume)
	}
	return d.resume(ctx, t)
}
