package verify

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"

	"carom/schemas/service"
	"carom/schemas/warehouse"
)

const about = `carom schema verify tries a ClickHouse server or cluster of yours, in a scratch database that it makes
and drops again: does the schema apply, is a batch that was sent twice stored once, in every table
behind a materialized view too, do roles hold, do replicas agree, do the queries of the documents run.
Your data is not touched. The user needs the right to make databases; to try the roles, users too.

It ends with status 1 if a check failed. What it could not look at is listed with the reason: carom's
own tests run against the embedded engine, which has no users, replicas or shards, so that a server
of yours is the first to try those. A minute on an idle server.

Examples:
  carom schema verify --url http://127.0.0.1:8123
  carom schema verify --url 'clickhouse://ch1,ch2?secure=true' --cluster main --user admin --password-file /etc/carom/admin.password`

// ErrFailed is what Command returns when a check failed.
var ErrFailed = errors.New("carom schema verify: this server is not ready for carom")

// Command is the subcommand "schema verify". version is that of the binary.
func Command(ctx context.Context, args []string, stdio service.IO, version string) error {
	flags := service.NewFlags("schema verify", about, stdio)
	rawURL, login := warehouse.Flags(flags)
	o := Options{Version: version}
	flags.StringVar(&o.Layout.Cluster, "cluster", "", "`name` of the cluster to try, as in remote_servers of the servers")
	asJSON := flags.Bool("json", false, "write the report as JSON")
	if err := flags.Parse(args); err != nil {
		return err
	}
	if err := flags.NoArgs(); err != nil {
		return err
	}
	o.URL, o.Warehouse = *rawURL, *login
	out := stdio.Out
	if *asJSON {
		out = stdio.Err
	}
	o.Progress = func(c Check) {
		_, _ = fmt.Fprintf(out, "%-11s  %s (%.1f s)%s\n", c.Result, c.Name, c.Seconds, indented(c.Detail)) // the report follows
	}
	report, err := Run(ctx, o)
	if *asJSON && len(report.Checks) > 0 {
		encoder := json.NewEncoder(stdio.Out)
		encoder.SetIndent("", "  ")
		err = errors.Join(err, encoder.Encode(report))
	}
	if err != nil {
		return err
	}
	passed, skipped := 0, 0
	for _, c := range report.Checks {
		switch c.Result {
		case Pass:
			passed++
		case NotChecked:
			skipped++
		case Fail:
		}
	}
	if _, err := fmt.Fprintf(out, "%d checks passed, %d failed, %d were not made.\n", passed, len(report.Checks)-passed-skipped, skipped); err != nil {
		return err
	}
	if !report.Passed {
		return ErrFailed
	}
	return nil
}

func indented(detail string) string {
	if detail == "" {
		return ""
	}
	return "\n             " + detail
}
