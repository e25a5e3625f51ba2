package cli

import (
	"errors"
	"fmt"
	"io"

	"github.com/ahelme/comfyume/internal/fault"
	"github.com/ahelme/comfyume/internal/frontend"
)

// frontendCmd is about versions of the official editor page.
type frontendCmd struct {
	Install frontendInstall `cmd:"" help:"Bring versions of the editor page, by pip or from package files."`
	List    frontendList    `cmd:"" help:"List installed versions."`
	Use     frontendUse     `cmd:"" help:"Make a version the default."`
}

type frontendInstall struct {
	What        []string `arg:"" optional:"" name:"version" help:"Versions, or files of packages (.whl); when left out, the one this program was tried with."`
	Again       bool     `help:"Also what is installed already."`
	NoTemplates bool     `help:"Leave the workflow templates out."`
	Media       bool     `help:"Pictures and films of the templates too (large)."`
	Docs        bool     `help:"Help pages of the nodes too."`
}

// Run brings versions of the editor.
func (cmd *frontendInstall) Run(c *call) error {
	root, err := c.frontends()
	if err != nil {
		return err
	}
	bar := newProgress(c.Stderr)
	defer bar.end()
	in := &frontend.Installer{Root: root, Media: cmd.Media, Progress: bar.show}
	what := cmd.What
	if len(what) == 0 {
		what = []string{""}
	}
	var got []frontend.Installed
	for _, one := range what {
		i, err := in.Install(c.ctx, one, cmd.Again)
		if err != nil {
			return err
		}
		got = append(got, i)
	}
	more, err := cmd.beside(c, in)
	bar.end()
	if err != nil {
		return err
	}
	return printInstalled(c, append(got, more...))
}

// beside brings the packages that belong to the page. The page works without templates, so trouble with those is
// said and no more; what was asked for by a flag has to come.
func (cmd *frontendInstall) beside(c *call, in *frontend.Installer) ([]frontend.Installed, error) {
	var got []frontend.Installed
	if !cmd.NoTemplates {
		i, err := in.InstallTemplates(c.ctx, cmd.Again)
		switch {
		case err == nil:
			got = append(got, i)
		case c.ctx.Err() != nil:
			return got, err
		default:
			fmt.Fprintln(c.Stderr, "The page is installed, its workflow templates are not:")
			complain(c.Stderr, err)
		}
	}
	if cmd.Media {
		all, err := in.InstallMedia(c.ctx, cmd.Again)
		got = append(got, all...)
		if err != nil {
			return got, err
		}
	}
	if cmd.Docs {
		i, err := in.InstallDocs(c.ctx, cmd.Again)
		if err != nil {
			return got, err
		}
		got = append(got, i)
	}
	return got, nil
}

func printInstalled(c *call, list []frontend.Installed) error {
	return c.print(list, func(w io.Writer) {
		rows := make([][]string, 0, len(list))
		for _, i := range list {
			note := ""
			if i.Default {
				note = "default"
			}
			rows = append(rows, []string{string(i.Kind), i.Version, fmt.Sprintf("%.0f MB", float64(i.Size)/1e6), i.Folder, note})
		}
		table(w, []string{"WHAT", "VERSION", "SIZE", "FOLDER", ""}, rows)
	})
}

type frontendList struct{}

// Run lists installed versions.
func (*frontendList) Run(c *call) error {
	root, err := c.frontends()
	if err != nil {
		return err
	}
	all := []frontend.Installed{}
	for _, kind := range []frontend.Kind{frontend.Page, frontend.Templates, frontend.Media, frontend.Docs} {
		list, err := frontend.List(root, kind)
		if err != nil {
			return err
		}
		all = append(all, list...)
	}
	return printInstalled(c, all)
}

type frontendUse struct {
	Version string `arg:"" help:"An installed version, or auto for the newest one."`
}

// Run makes a version the default.
func (cmd *frontendUse) Run(c *call) error {
	root, err := c.frontends()
	if err != nil {
		return err
	}
	err = frontend.Use(root, cmd.Version)
	if fault.Is(err, fault.Missing) {
		list, listErr := frontend.List(root, frontend.Page)
		if listErr != nil {
			return errors.Join(err, listErr)
		}
		for _, i := range list {
			fmt.Fprintln(c.Stderr, "installed:", i.Version)
		}
	}
	return err
}
