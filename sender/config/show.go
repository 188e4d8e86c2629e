package config

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"text/tabwriter"

	"carom/schemas/clock"
	"carom/schemas/service"
)

const settingsAbout = `
carom show settings [DOMAIN[/VMTA]] [-c FILE] [--set] [--json]

Prints what counts for the queue DOMAIN/VMTA, one directive a line: its name, its value, and the place
that it comes from, or "default". DOMAIN may be the name of a rollup (google.rollup), VMTA that of a
virtual MTA or of a pool; without one it is {default}. The directives of the virtual MTA or the pool
follow: max-msg-rate is the static value, adaptive-max-msg-rate how far the control loop may go above it.
Then come the leases that the loop has given this machine for the sources of the virtual MTA, where there
are any. Without DOMAIN the directives outside sections are printed. Files are read, no node is asked.

Example:
  carom show settings gmail.com/mail1 -c /etc/carom/config --set`

// shown are settings of one kind in the output of carom show settings.
type shown struct {
	Of       string         `json:"of"` // "queue gmail.com/mail1", "virtual-mta mail1" and so on
	Settings []shownSetting `json:"settings"`
}

type shownSetting struct {
	Name  string `json:"name"`
	Value string `json:"value"`
	Place string `json:"place"` // file:line:column, or "default"
}

// SettingsCommand is carom show settings: args are what follows these words.
func SettingsCommand(_ context.Context, args []string, stdio service.IO) error {
	flags := service.NewFlags("show settings", settingsAbout, stdio)
	file := flags.String("c", "/etc/carom/config", "configuration `FILE`")
	onlySet := flags.Bool("set", false, "leave out what has its default")
	asJSON := flags.Bool("json", false, "write them as a JSON array")
	plain, err := parseMixed(flags, args)
	if err != nil {
		return err
	}
	if len(plain) > 1 {
		return service.Configf("%s: unexpected %q after %q (see %s --help)", flags.Name(), plain[1], plain[0], flags.Name())
	}
	c, _, err := Load(*file)
	if err != nil {
		return err
	}
	queue := ""
	if len(plain) == 1 {
		queue = plain[0]
	}
	all, err := c.shown(queue)
	if err != nil {
		return service.Configf("%s: %w", flags.Name(), err)
	}
	for i := range all {
		if *onlySet {
			all[i].Settings = slices.DeleteFunc(all[i].Settings, func(s shownSetting) bool { return s.Place == Pos{}.String() })
		}
	}
	if *asJSON {
		return writeJSON(stdio.Out, all)
	}
	w := tabwriter.NewWriter(stdio.Out, 0, 0, 2, ' ', 0)
	for _, part := range all {
		if _, err := fmt.Fprintf(w, "# %s\n", part.Of); err != nil {
			return fmt.Errorf("write settings: %w", err)
		}
		for _, s := range part.Settings {
			if _, err := fmt.Fprintf(w, "%s\t%s\t%s\n", s.Name, cmp.Or(s.Value, `""`), s.Place); err != nil {
				return fmt.Errorf("write settings: %w", err)
			}
		}
	}
	return w.Flush()
}

// parseMixed parses flags and arguments in any order and returns the arguments.
func parseMixed(flags *service.Flags, args []string) ([]string, error) {
	var plain []string
	for {
		if err := flags.Parse(args); err != nil {
			return nil, err
		}
		if args = flags.Args(); len(args) == 0 {
			return plain, nil
		}
		plain, args = append(plain, args[0]), args[1:]
	}
}

// shown returns the settings of the queue, and with it of its vmta or pool; those outside sections if
// queue is empty.
func (c *Config) shown(queue string) ([]shown, error) {
	if queue == "" {
		return []shown{{"global", places(explain(globals, c, func(name string) Pos { return c.set[name] }))}}, nil
	}
	domain, name, _ := strings.Cut(queue, "/")
	p, err := parseDomainPattern(domain)
	if _, literal := literalAddr(strings.ToLower(domain)); !literal && (err != nil || p.kind != matchExact) {
		return nil, fmt.Errorf("bad queue %q; want DOMAIN or DOMAIN/VMTA, for example gmail.com/mail1", queue)
	}
	if m, ok := c.VMTA(name); ok {
		all := []shown{
			{"queue " + domain + "/" + m.Name, places(c.Explain(domain, m.Name))},
			{"virtual-mta " + m.Name, places(explain(vmtaScope, m, func(name string) Pos { return c.vmtaOrigin(m, name) }))},
		}
		if leases := c.leases(domain, m, clock.Now()); len(leases.Settings) > 0 {
			all = append(all, leases)
		}
		return all, nil
	}
	if pool, ok := c.Pool(name); ok {
		return []shown{
			{"queue " + domain + " of the pool " + pool.Name, places(c.explainDomain(func(f func(assignment[Settings])) { c.eachOfPool(domain, pool, f) }))},
			{"virtual-mta-pool " + pool.Name, places(explain(poolScope, pool, pool.Origin))},
		}, nil
	}
	names := append(slices.Collect(maps.Keys(c.vmtas)), slices.Collect(maps.Keys(c.pools))...)
	slices.Sort(names)
	return nil, fmt.Errorf("there is no virtual-mta or pool %q%s", name, closest(strings.ToLower(name), names))
}

// vmtaOrigin returns where a directive of the vmta was written: in its section, or outside all, from
// where it is filled in.
func (c *Config) vmtaOrigin(m *VMTA, directive string) Pos {
	switch directive {
	case "host-name", "smtp-source-host", "domain-key":
		return cmp.Or(m.set[directive], c.set[directive])
	}
	return m.set[directive]
}

// explain returns what t holds, directive by directive in the order of their names.
func explain[T any](s *scope[T], t *T, origin func(name string) Pos) []Setting {
	all := make([]Setting, 0, len(s.rows))
	for _, name := range slices.Sorted(maps.Keys(s.rows)) {
		if row := s.rows[name]; row.Status != Alias {
			all = append(all, Setting{name, row.show(t), origin(name)})
		}
	}
	return all
}

func places(settings []Setting) []shownSetting {
	all := make([]shownSetting, len(settings))
	for i, s := range settings {
		all[i] = shownSetting{s.Name, s.Value, s.Origin.String()}
	}
	return all
}
