package config

import (
	"context"
	"fmt"
	"io"
	"net"
	"strings"

	"carom/schemas/service"
)

const checkAbout = `
carom check config FILE [--strict] [--dns] [--json]

Reads a configuration file with all that it includes and reports every mistake, each with file,
line and column, every directive that has no effect, and what is valid and unwise: each such advice has
the name of its rule, a reason and a fix. Nothing is started or written.
The exit status is 0 if the file can be used, 1 with --strict if there are warnings, 2 if it has mistakes.

Example:
  carom check config /etc/carom/config --strict`

// finding is a mistake or a warning in the output of carom check config --json.
type finding struct {
	Pos
	Rule    string `json:"rule,omitempty"` // of an advice
	Message string `json:"message"`
	Fix     string `json:"fix,omitempty"`
}

// findings are what carom check config has to say.
type findings struct {
	File     string    `json:"file"`
	OK       bool      `json:"ok"`
	Hash     string    `json:"hash,omitempty"`
	Mistakes []finding `json:"mistakes"`
	Warnings []finding `json:"warnings"`
}

// CheckCommand is carom check config: args are what follows these words. Mistakes in the file
// come back as a *service.ConfigError that says how many there are; they are printed already.
func CheckCommand(ctx context.Context, args []string, stdio service.IO) error {
	flags := service.NewFlags("check config", checkAbout, stdio)
	strict := flags.Bool("strict", false, "count warnings as failure")
	dns := flags.Bool("dns", false, "ask DNS whether the names of virtual MTAs and their addresses lead to each other")
	asJSON := flags.Bool("json", false, "write the findings as one JSON object")
	plain, err := parseMixed(flags, args)
	switch {
	case err != nil:
		return err
	case len(plain) == 0:
		return service.Configf("%s: which file? (see %s --help)", flags.Name(), flags.Name())
	case len(plain) > 1:
		return service.Configf("%s: unexpected %q after %q (see %s --help)", flags.Name(), plain[1], plain[0], flags.Name())
	}
	machine := thisMachine()
	if *dns {
		machine.DNS = net.DefaultResolver
	}
	f := check(ctx, plain[0], machine)
	if *asJSON {
		err = writeJSON(stdio.Out, f)
	} else {
		err = f.write(stdio.Out)
	}
	switch {
	case err != nil:
		return fmt.Errorf("write findings: %w", err)
	case len(f.Mistakes) > 0:
		return service.Configf("%s: %s", f.File, plural(len(f.Mistakes), "mistake"))
	case *strict && len(f.Warnings) > 0:
		return fmt.Errorf("%s: %s", f.File, plural(len(f.Warnings), "warning"))
	}
	return nil
}

// check reads the file and judges it.
func check(ctx context.Context, file string, m Machine) findings {
	c, warnings, err := Load(file)
	f := findings{File: file, OK: c != nil, Mistakes: []finding{}, Warnings: []finding{}}
	for _, mistake := range Errors(err) {
		f.Mistakes = append(f.Mistakes, finding{Pos: mistake.Pos, Message: mistake.Message})
	}
	for _, w := range warnings {
		f.Warnings = append(f.Warnings, finding{Pos: w.Pos, Message: w.Message})
	}
	if c == nil {
		return f
	}
	f.Hash = c.HashText()
	for _, a := range Lint(ctx, c, file, m) {
		f.Warnings = append(f.Warnings, finding{a.Pos, a.Rule, a.Reason, a.Fix})
	}
	return f
}

func (f *findings) write(w io.Writer) error {
	var b strings.Builder
	for _, x := range f.Warnings {
		fmt.Fprintf(&b, "%s: warning: %s", x.Pos, x.Message)
		if x.Rule != "" {
			fmt.Fprintf(&b, " [%s]; %s", x.Rule, x.Fix)
		}
		b.WriteByte('\n')
	}
	for _, x := range f.Mistakes {
		fmt.Fprintf(&b, "%s: %s\n", x.Pos, x.Message)
	}
	if f.OK {
		summary := "ok"
		if n := len(f.Warnings); n > 0 {
			summary = "ok, " + plural(n, "warning")
		}
		fmt.Fprintf(&b, "%s: %s\n", f.File, summary)
	}
	_, err := io.WriteString(w, b.String())
	return err
}

func plural(n int, noun string) string {
	if n == 1 {
		return "1 " + noun
	}
	return fmt.Sprintf("%d %ss", n, noun)
}
