// Package console is an operator's commands, carom queue and carom source: it asks a running node
// at its admin socket and prints the answer for people, or as JSON.
//
// What is wrong in the question is a *service.ConfigError (exit status 2), whether the command or
// the node says so; a node that is not there, or refuses for another reason, is status 1.
package console

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"strings"
	"syscall"
	"time"

	"carom/schemas/clock"
	"carom/schemas/service"
	"carom/sender/admin"
	"carom/sender/config"
	"carom/sender/orders"
)

// verb is what stands behind "carom queue" or "carom source".
type verb struct {
	name  string
	usage string // its arguments
	about string // one line
	more  string // what --help adds
	// prepare defines the verb's flags and returns what runs with the arguments that are none.
	prepare func(c *call) func(ctx context.Context, args []string) error
}

// command is a word with its verbs.
type command struct {
	name    string
	about   string
	example string
	verbs   []verb
}

// run runs the verb that args begin with.
func (c *command) run(ctx context.Context, args []string, stdio service.IO) error {
	if len(args) == 0 || strings.HasPrefix(args[0], "-") {
		flags := service.NewFlags(c.name, c.help(), stdio)
		(&call{}).place(flags)
		if err := flags.Parse(args); err != nil {
			return err
		}
		return service.Configf("carom %s: what? (see carom %s --help)", c.name, c.name)
	}
	var names []string
	for _, v := range c.verbs {
		if v.name != args[0] {
			names = append(names, v.name)
			continue
		}
		call := &call{
			command: "carom " + c.name + " " + v.name, out: stdio.Out,
			Flags: service.NewFlags(c.name+" "+v.name, "carom "+c.name+" "+v.name+" "+v.usage+"\n\n"+v.about+"\n\n"+v.more, stdio),
		}
		call.place(call.Flags)
		run := v.prepare(call)
		plain, err := call.parse(args[1:])
		if err != nil {
			return err
		}
		return call.explain(run(ctx, plain))
	}
	return service.Configf("carom %s %s: unknown, want %s (see carom %s --help)", c.name, args[0], strings.Join(names, ", "), c.name)
}

func (c *command) help() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s\n\n", c.about)
	width := 0
	for _, v := range c.verbs {
		width = max(width, len(v.name)+1+len(v.usage))
	}
	for _, v := range c.verbs {
		fmt.Fprintf(&b, "  carom %s %-*s  %s\n", c.name, width, v.name+" "+v.usage, v.about)
	}
	fmt.Fprintf(&b, "\nEach explains itself with --help.\n\n%s", c.example)
	return b.String()
}

// call is one run of a verb.
type call struct {
	*service.Flags

	command      string
	out          io.Writer
	socket, file string
	asJSON       bool
}

// place defines the flags that every verb has.
func (c *call) place(flags *service.Flags) {
	flags.StringVar(&c.file, "c", "/etc/carom/config", "find the node by its configuration `FILE`, which has an <admin PATH>")
	flags.StringVar(&c.socket, "socket", "", "find the node by its admin socket at `PATH`")
	flags.BoolVar(&c.asJSON, "json", false, "write the answer as JSON")
	clock.Flag(flags.FlagSet)
}

// parse parses flags and arguments in any order and returns the arguments.
func (c *call) parse(args []string) ([]string, error) {
	var plain []string
	for {
		if err := c.Parse(args); err != nil {
			return nil, err
		}
		if args = c.Args(); len(args) == 0 {
			return plain, nil
		}
		plain, args = append(plain, args[0]), args[1:]
	}
}

// client returns a client of the node.
func (c *call) client() (*admin.Client, error) {
	if c.socket == "" {
		configuration, _, err := config.Load(c.file)
		if err != nil {
			return nil, service.Configf("%s: where is the node? %w (or name its socket: --socket PATH)", c.command, err)
		}
		c.socket = configuration.Admin.Path
	}
	return admin.NewClient(c.socket), nil
}

// explain gives an error of the node the words that help.
func (c *call) explain(err error) error {
	refused, isRefused := errors.AsType[*admin.RefusedError](err)
	_, mistake := errors.AsType[*service.ConfigError](err)
	switch {
	case err == nil, mistake:
		return err
	case isRefused && refused.Status == http.StatusBadRequest:
		return service.Configf("%s: %w", c.command, err)
	case errors.Is(err, os.ErrNotExist), errors.Is(err, syscall.ECONNREFUSED):
		return fmt.Errorf("%s: no node runs at the socket %s", c.command, c.socket)
	case errors.Is(err, os.ErrPermission):
		return fmt.Errorf("%s: only root and the node's own user may use %s: %w", c.command, c.socket, err)
	default:
		return fmt.Errorf("%s: %w", c.command, err)
	}
}

// show prints value as JSON, or as text writes it.
func (c *call) show(value any, text func(io.Writer) error) error {
	if !c.asJSON {
		return text(c.out)
	}
	encoder := json.NewEncoder(c.out)
	encoder.SetIndent("", "  ")
	return encoder.Encode(value)
}

// selection are the flags that say which mail.
type selection struct {
	filter    orders.Filter
	olderThan interval
}

func (c *call) selection(withAge bool) *selection {
	s := &selection{}
	c.StringVar(&s.filter.Queue, "queue", "", "queues by `PATTERN` domain/vmta, * stands for any text")
	c.StringVar(&s.filter.Job, "job", "", "mail of the job `ID`")
	c.StringVar(&s.filter.Tenant, "tenant", "", "mail of the tenant `NAME`")
	c.StringVar(&s.filter.Domain, "domain", "", "mail in queues of the domain or rollup `NAME`")
	c.StringVar(&s.filter.VMTA, "vmta", "", "mail by the virtual MTA `NAME`")
	if withAge {
		c.Var(&s.olderThan, "older-than", "mail that arrived more than this `TIME` ago, such as 2h or 1d12h")
	}
	return s
}

// read returns the filter; args may be one queue pattern.
func (s *selection) read(c *call, args []string) (orders.Filter, error) {
	f := s.filter
	switch {
	case len(args) > 1:
		return f, service.Configf("%s: unexpected argument %q, one queue is enough (quote patterns with *)", c.command, args[1])
	case len(args) == 1 && f.Queue != "":
		return f, service.Configf("%s: queue %q and --queue %q, which?", c.command, args[0], f.Queue)
	case len(args) == 1:
		f.Queue = args[0]
	}
	f.Queue, f.Domain = orders.QueuePattern(f.Queue), strings.ToLower(f.Domain)
	if s.olderThan > 0 {
		f.ArrivedBefore = clock.Now().Add(-time.Duration(s.olderThan)).UTC()
	}
	return f, nil
}

// interval is a flag in the configuration's way to write times.
type interval time.Duration

// String is part of flag.Value.
func (i *interval) String() string {
	if *i == 0 {
		return ""
	}
	return config.FormatDuration(time.Duration(*i))
}

// Set is part of flag.Value.
func (i *interval) Set(s string) error {
	d, err := config.ParseDuration(s)
	if err == nil && d <= 0 {
		err = errors.New("want more than 0")
	}
	*i = interval(d)
	return err
}
