// Command carom sends bulk mail and learns from every answer. Run "carom help" for its
// subcommands; each explains itself with --help.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"

	"carom/analytics/annotate"
	analytics "carom/analytics/app"
	"carom/analytics/trace"
	"carom/deploy/bench"
	"carom/deploy/bench/history"
	"carom/deploy/demo"
	"carom/deploy/load"
	"carom/deploy/load/events"
	"carom/deploy/loop/e2e"
	"carom/deploy/receivers"
	"carom/deploy/up"
	agent "carom/ingest/app"
	"carom/ingest/classify"
	"carom/ingest/importer"
	"carom/schemas/service"
	"carom/schemas/warehouse"
	"carom/schemas/warehouse/engine"
	"carom/schemas/warehouse/verify"
	"carom/sender/admin/console"
	sender "carom/sender/app"
	"carom/sender/config"
)

// version is what a release build sets with -ldflags "-X main.version=…".
var version = "0.1.0-dev"

type command struct {
	name  string // one word or two
	about string
	run   func(context.Context, []string, service.IO) error
}

var commands = []command{
	{"up", "run everything on this machine: engine, schema, sender, agent, analytics", up.Command},
	{"demo", "run everything against simulated receivers and show the loop close", demo.Command},
	{"sender", "take mail over SMTP and deliver it", withVersion(sender.Command)},
	{"queue", "show what waits in a node, pause it, delete it, reroute it", console.QueueCommand},
	{"reload", "let a node read its configuration again", console.ReloadCommand},
	{"source", "keep queues from using a local address", console.SourceCommand},
	{"ingest agent", "ship a node's event log to ClickHouse and bring limits back", ingestAgent},
	{"ingest quarantine", "list the records that ClickHouse refused, and try them again", agent.QuarantineCommand},
	{"ingest unclassified", "list what receivers said and no rule understood", agent.UnclassifiedCommand},
	{"ingest parse", "say what a returned mail is: a bounce, a complaint, and for whom", agent.ParseCommand},
	{"import pmta", "bring PowerMTA's accounting files into ClickHouse", importPMTA},
	{"analytics", "run the jobs over the history, once or on schedule", withVersion(analytics.Command)},
	{"suppress", "show and change whom the nodes must not mail", suppress},
	{"trace", "tell the life of a message, or of what a recipient was sent", traceMail},
	{"annotate", "write a note beside the curves of the dashboards, or list them", annotate.Command},
	{"limits", "list limits in force, explain their changes, pin them, stop the loop", withVersion(analytics.LimitsCommand)},
	{"policy", "check the policy file of the analytics jobs, or print every word of it", analytics.PolicyCommand},
	{"reputation", "list scores, or explain one with its numbers", analytics.ReputationCommand},
	{"clickhouse", "serve the embedded ClickHouse engine over HTTP", engine.Command},
	{"schema verify", "try a ClickHouse server of yours in a scratch database", withVersion(verify.Command)},
	{"schema", "apply, compare or print the warehouse's tables, their retention and roles", withVersion(warehouse.Command)},
	{"check config", "check a configuration file", config.CheckCommand},
	{"check directives", "list every directive, and what carom does with it", config.DirectivesCommand},
	{"show settings", "show what counts for a queue, and where it was written", config.SettingsCommand},
	{"classify", "say what an SMTP reply means, and which rule says so", classify.Command},
	{"receivers", "simulate receiving providers with hidden limits", receivers.Command},
	{"loop e2e", "run scenarios of the control loop with everything real", e2e.Command},
	{"load mail", "hand test mail to a node and count every answer", load.Command},
	{"load events", "make an event history inside ClickHouse", events.Command},
	{"bench history", "measure the event history: shipping, sizes, questions", history.Command},
	{"bench", "measure the node against Postfix and go-smtp", bench.Command},
}

func main() {
	ctx, stop := service.UntilSignal(context.Background())
	err := run(ctx, os.Args[1:], service.IO{In: os.Stdin, Out: os.Stdout, Err: os.Stderr})
	stop()
	if err != nil && !errors.Is(err, flag.ErrHelp) {
		fmt.Fprintln(os.Stderr, complaint(err))
	}
	os.Exit(service.ExitStatus(err))
}

// complaint is the line that says why carom ends. What a subcommand says of itself begins with its
// name, everything else with carom's.
func complaint(err error) string {
	line := err.Error()
	if !strings.HasPrefix(line, "carom ") {
		line = "carom: " + line
	}
	return line
}

func run(ctx context.Context, args []string, stdio service.IO) error {
	if len(args) == 0 {
		return errors.Join(service.Configf("which subcommand?"), usage(stdio.Err))
	}
	switch args[0] {
	case "help", "-h", "--help":
		if len(args) == 1 {
			return usage(stdio.Out)
		}
		c, _, err := find(args[1:])
		if err != nil {
			return err
		}
		return c.run(ctx, []string{"--help"}, stdio)
	case "version", "--version":
		_, err := fmt.Fprintln(stdio.Out, "carom", version)
		return err
	}
	c, rest, err := find(args)
	if err != nil {
		return err
	}
	return c.run(ctx, rest, stdio)
}

// find returns the subcommand that args begin with, and its arguments.
func find(args []string) (command, []string, error) {
	for _, c := range commands {
		words := strings.Fields(c.name)
		if len(args) >= len(words) && strings.Join(args[:len(words)], " ") == c.name {
			return c, args[len(words):], nil
		}
	}
	var wholes []string
	for _, c := range commands {
		if strings.HasPrefix(c.name, args[0]+" ") {
			wholes = append(wholes, strconv.Quote("carom "+c.name))
		}
	}
	if len(wholes) > 0 {
		return command{}, nil, service.Configf("carom %s: which? there is %s (see carom help)", args[0], strings.Join(wholes, " and "))
	}
	return command{}, nil, service.Configf("unknown subcommand %q (see carom help)", args[0])
}

func usage(w io.Writer) error {
	var b strings.Builder
	b.WriteString("carom sends bulk mail and learns from every answer.\n\nSubcommands (each explains itself with --help):\n")
	for _, c := range commands {
		fmt.Fprintf(&b, "  %-20s %s\n", c.name, c.about)
	}
	fmt.Fprintf(&b, "  %-20s %s\n", "version", "print the version")
	b.WriteString("\nStart with: carom up --dir ./carom-data\n")
	_, err := io.WriteString(w, b.String())
	return err
}

func withVersion(f func(context.Context, []string, service.IO, string) error) func(context.Context, []string, service.IO) error {
	return func(ctx context.Context, args []string, stdio service.IO) error { return f(ctx, args, stdio, version) }
}

func ingestAgent(ctx context.Context, args []string, stdio service.IO) error {
	return agent.Command(ctx, args, stdio, version, agentOptions)
}

func importPMTA(ctx context.Context, args []string, stdio service.IO) error {
	return importer.Command(ctx, args, stdio, version, importNode)
}

func traceMail(ctx context.Context, args []string, stdio service.IO) error {
	return trace.Command(ctx, args, stdio, suppressionKey)
}

func suppress(ctx context.Context, args []string, stdio service.IO) error {
	return analytics.SuppressCommand(ctx, args, stdio, suppressionKey)
}

// importNode reads what an import has to know of a node.
func importNode(file string) (importer.Node, error) {
	c, _, err := config.Load(file)
	if err != nil {
		return importer.Node{}, err
	}
	key, err := suppressionKeyOf(c, file)
	if err != nil {
		return importer.Node{}, err
	}
	hide, err := sender.Hide(c)
	return importer.Node{SuppressionKey: key, Hide: hide}, err
}

// suppressionKey reads the key of the suppression hash from a node's configuration.
func suppressionKey(file string) (string, error) {
	c, _, err := config.Load(file)
	if err != nil {
		return "", err
	}
	return suppressionKeyOf(c, file)
}

func suppressionKeyOf(c *config.Config, file string) (string, error) {
	if c.Feed.SuppressionKey.Reveal() == "" {
		return "", service.Configf("%s has no suppression-key-file in <feed DIR>: the node uses a key that it made itself", file)
	}
	return c.Feed.SuppressionKey.Reveal(), nil
}

// agentOptions reads what the sender's configuration says for the agent, which itself must not
// know the sender's language.
func agentOptions(file string) (agent.Options, error) {
	c, _, err := config.Load(file)
	if err != nil {
		return agent.Options{}, err
	}
	url := *c.EventStream.URL
	if strings.Trim(url.Path, "/") == "" {
		url.Path = "/" + c.EventStream.Database
	}
	return agent.Options{
		EventLog: c.EventLog.Dir, Feed: c.Feed.Dir, Node: c.HostName(), URL: url.String(),
		Warehouse: warehouse.Options{User: c.EventStream.User, Password: c.EventStream.Password.Reveal()},
		BatchRows: c.EventStream.BatchSize, BatchAge: c.EventStream.BatchInterval,
	}, nil
}
