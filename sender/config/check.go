package config

import (
	"context"
	"fmt"

	"carom/schemas/service"
)

const checkAbout = `
carom check config FILE [--json]

Reads a configuration file with all that it includes and reports every mistake, each with file,
line and column, and every directive that has no effect. Nothing is started or written.
The exit status is 0 if the file can be used, 2 if it has mistakes.

Example:
  carom check config /etc/carom/config`

// finding is a mistake or a warning in the output of carom check config --json.
type finding struct {
	Pos
	Message string `json:"message"`
}

// CheckCommand is carom check config: args are what follows these words. Mistakes in the file
// come back as a *service.ConfigError that says how many there are; they are printed already.
func CheckCommand(_ context.Context, args []string, stdio service.IO) error {
	flags := service.NewFlags("check config", checkAbout, stdio)
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
	file := plain[0]
	c, warnings, loadErr := Load(file)
	if err := writeFindings(stdio, file, c, warnings, Errors(loadErr), *asJSON); err != nil {
		return fmt.Errorf("write findings: %w", err)
	}
	if loadErr != nil {
		return service.Configf("%s: %s", file, plural(len(Errors(loadErr)), "mistake"))
	}
	return nil
}

func writeFindings(stdio service.IO, file string, c *Config, warnings []Warning, mistakes []*Error, asJSON bool) error {
	if asJSON {
		out := struct {
			File     string    `json:"file"`
			OK       bool      `json:"ok"`
			Hash     string    `json:"hash,omitempty"`
			Mistakes []finding `json:"mistakes"`
			Warnings []finding `json:"warnings"`
		}{File: file, OK: c != nil, Mistakes: []finding{}, Warnings: []finding{}}
		if c != nil {
			out.Hash = c.HashText()
		}
		for _, m := range mistakes {
			out.Mistakes = append(out.Mistakes, finding{m.Pos, m.Message})
		}
		for _, w := range warnings {
			out.Warnings = append(out.Warnings, finding{w.Pos, w.Message})
		}
		return writeJSON(stdio.Out, out)
	}
	for _, w := range warnings {
		if _, err := fmt.Fprintf(stdio.Out, "%s: warning: %s\n", w.Pos, w.Message); err != nil {
			return err
		}
	}
	for _, m := range mistakes {
		if _, err := fmt.Fprintln(stdio.Out, m); err != nil {
			return err
		}
	}
	if c == nil {
		return nil
	}
	summary := "ok"
	if len(warnings) > 0 {
		summary = "ok, " + plural(len(warnings), "warning")
	}
	_, err := fmt.Fprintf(stdio.Out, "%s: %s\n", file, summary)
	return err
}

func plural(n int, noun string) string {
	if n == 1 {
		return "1 " + noun
	}
	return fmt.Sprintf("%d %ss", n, noun)
}
