package app

import (
	"context"
	"flag"
	"slices"

	"carom/ingest/ship"
	"carom/schemas/clock"
	"carom/schemas/service"
	"carom/schemas/warehouse"
)

const about = `carom ingest agent ships a node's event log to ClickHouse, each record exactly once, and brings
limits and suppressions back as files that the sender watches. One agent runs beside each sender;
mail flows without it. While ClickHouse is down, the log waits on disk.

Examples:
  carom ingest agent -c /etc/carom/config
  carom ingest agent --node mail1.example.com --event-log /var/lib/carom/events --feed /var/lib/carom/feed \
      --url https://clickhouse.example.com:8443/carom --user carom --password-file /etc/carom/clickhouse.password`

// Command runs carom ingest agent. version is that of the binary; fromConfig reads the options that
// the sender's configuration file has, for -c.
func Command(ctx context.Context, args []string, stdio service.IO, version string, fromConfig func(file string) (Options, error)) error {
	flags := service.NewFlags("ingest agent", about, stdio)
	var o Options
	file := flags.String("c", "", "the sender's configuration `FILE`; it stands in place of the flags for the log, the feed, the node, ClickHouse and batches")
	rawURL, login := warehouse.Flags(flags)
	flags.StringVar(&o.EventLog, "event-log", "", "`folder` of the sender's event log")
	flags.StringVar(&o.Feed, "feed", "", "`folder` for limits and suppressions, watched by the sender")
	flags.StringVar(&o.Node, "node", "", "`name` of the node, the same as the sender's host-name")
	flags.IntVar(&o.BatchRows, "batch-rows", ship.DefaultBatchRows, "`number` of events in a batch at most")
	flags.DurationVar(&o.BatchAge, "batch-age", ship.DefaultBatchAge, "how long an event may wait for others before it is sent, a `duration`")
	flags.BoolVar(&o.Once, "once", false, "ship what is there, look for limits and suppressions once, and end")
	level := flags.String("log-level", "info", "`level` of the log: debug, info, warn or error")
	asJSON := flags.Bool("log-json", false, "log JSON lines")
	clock.Flag(flags.FlagSet)
	if err := flags.Parse(args); err != nil {
		return err
	}
	if err := flags.NoArgs(); err != nil {
		return err
	}
	if o.URL, o.Warehouse = *rawURL, *login; *file != "" {
		if err := onlyWithConfig(flags); err != nil {
			return err
		}
		once := o.Once
		var err error
		if o, err = fromConfig(*file); err != nil {
			return err
		}
		o.Once = once
	}
	o.Version = version
	log, err := service.Logger(stdio.Err, *level, *asJSON)
	if err != nil {
		return err
	}
	return Run(ctx, o, log)
}

// onlyWithConfig returns a ConfigError for a flag that says what the file of -c says too.
func onlyWithConfig(flags *service.Flags) (err error) {
	flags.Visit(func(f *flag.Flag) {
		if err == nil && !slices.Contains([]string{"c", "once", "log-level", "log-json", "time-scale"}, f.Name) {
			err = service.Configf("carom ingest agent: --%s and -c exclude each other: the file says it", f.Name)
		}
	})
	return err
}
