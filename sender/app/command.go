package app

import (
	"context"
	"encoding/json"
	"io"

	"carom/schemas/atomicfile"
	"carom/schemas/clock"
	"carom/schemas/service"
)

const about = `
carom sender -c FILE

Takes mail over SMTP, keeps it in a durable queue and delivers it under per-destination limits.
FILE is a configuration in PowerMTA's language; it needs a <spool DIR> and an <event-log DIR>.
SIGTERM and SIGINT stop the node cleanly: what is not delivered stays in the spool. SIGHUP lets it read
FILE again, as carom reload does: a file with mistakes changes nothing.

Example:
  carom check config /etc/carom/config && carom sender -c /etc/carom/config
`

// Command is "carom sender". version is that of carom.
func Command(ctx context.Context, args []string, stdio service.IO, version string) error {
	flags := service.NewFlags("sender", about, stdio)
	file := flags.String("c", "/etc/carom/config", "configuration `FILE`")
	level := flags.String("log-level", "info", "least `LEVEL` to log: debug, info, warn or error")
	asJSON := flags.Bool("log-json", false, "log JSON lines")
	readyFile := flags.String("ready-file", "", "write the listeners' addresses to `FILE` as JSON once mail is accepted")
	clock.Flag(flags.FlagSet)
	if err := flags.Parse(args); err != nil {
		return err
	}
	if err := flags.NoArgs(); err != nil {
		return err
	}
	logger, err := service.Logger(stdio.Err, *level, *asJSON)
	if err != nil {
		return err
	}
	return RunFile(ctx, *file, version, logger, func(addresses []string) {
		if *readyFile == "" {
			return
		}
		if err := atomicfile.Write(*readyFile, func(w io.Writer) error {
			return json.NewEncoder(w).Encode(map[string][]string{"smtp": addresses})
		}); err != nil {
			logger.Error("ready file not written", "error", err)
		}
	})
}
