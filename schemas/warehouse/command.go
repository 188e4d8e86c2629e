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
  carom schema rebuild --url URL --from TIME   compute the roll-ups of a span anew (see its --help)

Example:
  carom schema apply --url http://127.0.0.1:8123/carom`

// Command runs carom schema apply, status, print or rebuild. version is that of the binary.
func Command(ctx context.Context, args []string, stdio service.IO, version string) error {
	verb := ""
	if len(args) > 0 && args[0] != "" && args[0][0] != '-' {
		verb, args = args[0], args[1:]
	}
	if verb == "rebuild" {
		return rebuildCommand(ctx, args, stdio)
	}
	flags := service.NewFlags("schema "+verb, about, stdio)
	rawURL, options := Flags(flags)
	asJSON := flags.Bool("json", false, "write the result of apply or status as JSON")
	if err := flags.Parse(args); err != nil {
		return err
	}
	if err := flags.NoArgs(); err != nil {
		return err
	}
	switch verb {
	case "apply":
		applied, err := Apply(ctx, *rawURL, *options, version)
		if err != nil {
			return err
		}
		return show(stdio, applied, *asJSON, "the schema is up to date")
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
		return Print(stdio.Out)
	default:
		return service.Configf("%s: want apply, status, print or rebuild (see carom schema --help)", strings.TrimSpace("carom schema "+verb))
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
