package app

import (
	"context"

	"carom/ingest/ship"
	"carom/schemas/service"
	"carom/schemas/warehouse"
)

const about = `carom ingest agent ships a node's event log to ClickHouse, each record exactly once, and brings
limits and suppressions back as files that the sender watches. One agent runs beside each sender;
mail flows without it. While ClickHouse is down, the log waits on disk.

Example:
  carom ingest agent --node mail1.example.com --event-log /var/lib/carom/events --feed /var/lib/carom/feed \
      --url https://clickhouse.example.com:8443/carom --user carom --password-file /etc/carom/clickhouse.password`

// Command runs carom ingest agent. version is that of the binary.
func Command(ctx context.Context, args []string, stdio service.IO, version string) error {
	flags := service.NewFlags("ingest agent", about, stdio)
	o := Options{Version: version}
	rawURL, login := warehouse.Flags(flags)
	flags.StringVar(&o.EventLog, "event-log", "", "`folder` of the sender's event log")
	flags.StringVar(&o.Feed, "feed", "", "`folder` for limits and suppressions, watched by the sender")
	flags.StringVar(&o.Node, "node", "", "`name` of the node, the same as the sender's host-name")
	flags.IntVar(&o.BatchRows, "batch-rows", ship.DefaultBatchRows, "events in a batch at most")
	flags.DurationVar(&o.BatchAge, "batch-age", ship.DefaultBatchAge, "how long an event may wait for others before it is sent")
	flags.BoolVar(&o.Once, "once", false, "ship what is there, look for limits and suppressions once, and end")
	level := flags.String("log-level", "info", "debug, info, warn or error")
	asJSON := flags.Bool("log-json", false, "write log lines as JSON")
	if err := flags.Parse(args); err != nil {
		return err
	}
	if err := flags.NoArgs(); err != nil {
		return err
	}
	o.URL, o.Warehouse = *rawURL, *login
	log, err := service.Logger(stdio.Err, *level, *asJSON)
	if err != nil {
		return err
	}
	return Run(ctx, o, log)
}
