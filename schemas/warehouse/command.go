package warehouse

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"time"

	"carom/schemas/service"
)

const about = `carom schema creates and describes carom's tables in ClickHouse.

  carom schema apply  --url URL   create what is missing; applying twice changes nothing
  carom schema status --url URL   list the migrations and when they were applied
  carom schema print              write the SQL, without connecting to anything
  carom schema retention          show or set how long each table keeps its rows
  carom schema roles              write the SQL of users with the least rights that each part needs
  carom schema verify             try a server of yours in a scratch database
  carom schema rebuild            compute the roll-ups of a span anew

The last four explain themselves with --help. With --cluster NAME the tables
are made on every server of that cluster (its name in remote_servers): replicated, what nodes write
split over the shards by node, everything else whole on each.

Example:
  carom schema apply --url http://127.0.0.1:8123/carom
  carom schema apply --url 'clickhouse://ch1,ch2/carom?secure=true' --cluster main`

// Command runs carom schema and its verbs. version is that of the binary.
func Command(ctx context.Context, args []string, stdio service.IO, version string) error {
	verb := ""
	if len(args) > 0 && args[0] != "" && args[0][0] != '-' {
		verb, args = args[0], args[1:]
	}
	switch verb {
	case "retention":
		return retentionCommand(ctx, args, stdio)
	case "roles":
		return rolesCommand(args, stdio)
	case "rebuild":
		return rebuildCommand(ctx, args, stdio)
	}
	flags := service.NewFlags("schema "+verb, about, stdio)
	rawURL, options := Flags(flags)
	var layout Layout
	flags.StringVar(&layout.Cluster, "cluster", "", "`name` of the cluster to apply to or print for")
	retention := flags.String("retention", "", "YAML `file` with a line a table, as in events: 400d, for apply (see carom schema retention --help)")
	agreed := flags.Bool("yes", false, "let a shorter retention delete rows")
	asJSON := flags.Bool("json", false, "write the result of apply or status as JSON")
	if err := flags.Parse(args); err != nil {
		return err
	}
	if err := flags.NoArgs(); err != nil {
		return err
	}
	switch verb {
	case "apply":
		days, err := retentionFile(*retention)
		if err != nil {
			return err
		}
		applied, err := layout.Apply(ctx, *rawURL, *options, version)
		if err != nil {
			return err
		}
		if err := show(stdio, applied, *asJSON, "the schema is up to date"); err != nil || *retention == "" {
			return err
		}
		return keep(ctx, *rawURL, *options, layout, days, *agreed, func(changes []RetentionChange) error {
			return showChanges(stdio.Err, changes)
		})
	case "status":
		conn, err := Open(ctx, *rawURL, *options)
		if err != nil {
			return err
		}
		states, err := Status(ctx, conn)
		_ = conn.Close() // only read
		if err != nil {
			return err
		}
		return show(stdio, states, *asJSON, "")
	case "print":
		if *asJSON {
			return service.Configf("carom schema print: it writes SQL, without --json")
		}
		opt, err := parse(*rawURL, *options)
		if err != nil {
			return err
		}
		return layout.Print(stdio.Out, opt.Auth.Database)
	default:
		return service.Configf("%s: want apply, status, print, retention, roles, verify or rebuild (see carom schema --help)", strings.TrimSpace("carom schema "+verb))
	}
}

func show(stdio service.IO, list []Migration, asJSON bool, none string) error {
	if asJSON {
		if list == nil {
			list = []Migration{}
		}
		enc := json.NewEncoder(stdio.Out)
		enc.SetIndent("", "  ")
		return enc.Encode(list)
	}
	if len(list) == 0 {
		_, err := fmt.Fprintln(stdio.Out, none)
		return err
	}
	for _, m := range list {
		state := "not applied"
		switch {
		case m.Unknown:
			state = "applied by a newer carom (" + m.AppliedBy + ")"
		case m.Changed:
			state = "applied in another form (by " + m.AppliedBy + ")"
		case m.AppliedAt != nil:
			state = "applied " + m.AppliedAt.Format(time.RFC3339)
		}
		if _, err := fmt.Fprintf(stdio.Out, "%04d %-14s %s\n", m.Version, m.Name, state); err != nil {
			return err
		}
	}
	return nil
}
