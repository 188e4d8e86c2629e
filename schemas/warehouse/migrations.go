package warehouse

import (
	"embed"
	"fmt"
	"hash/crc32"
	"io/fs"
	"strconv"
	"strings"
	"sync"
	"text/template"

	"carom/schemas/event"
)

//go:embed migrations/*.sql
var migrationFiles embed.FS

// A migration is one numbered file of SQL. Its statements are idempotent.
type migration struct {
	version  uint32
	name     string // as in 0001_events: "events"
	sql      string // rendered
	checksum uint32 // of sql
}

// dedupWindow is how many of the last inserted blocks each table remembers by their token. An
// agent sends at most a few blocks a second and table, and repeats only its newest one, so this
// covers the blocks of a hundred nodes that come in while one of them is restarted. Each entry
// costs about a hundred bytes.
const dedupWindow = 20_000

// codecs are for columns that ZSTD alone stores larger, as measured (deploy/docs/schema.md).
var codecs = map[string]string{
	"time": "Delta, ZSTD(1)", "seq": "Delta, ZSTD(1)", "config_hash": "Delta, ZSTD(1)",
	"message_id": "ZSTD(6)", "recipient": "ZSTD(3)", "mail_from": "ZSTD(5)", "recipient_key": "ZSTD(1)", "reply": "ZSTD(1)", "size": "T64, ZSTD(1)", "queued_us": "T64, ZSTD(1)",
	"dns_us": "T64, ZSTD(1)", "connect_us": "T64, ZSTD(1)", "tls_us": "T64, ZSTD(1)", "transfer_us": "T64, ZSTD(1)",
	"mail_us": "T64, ZSTD(1)", "rcpt_us": "T64, ZSTD(1)", "data_us": "T64, ZSTD(1)", "body_us": "T64, ZSTD(1)", "final_dot_us": "T64, ZSTD(1)",
	"message_on_connection": "T64, ZSTD(1)", "open_connections": "T64, ZSTD(1)",
}

func definitions[T any](columns []event.Column[T]) string {
	lines := make([]string, len(columns))
	for i, c := range columns {
		lines[i] = fmt.Sprintf("    %s %s COMMENT %s", c.Name, c.Type, quote(c.Comment))
		if codec := codecs[c.Name]; codec != "" {
			lines[i] += " CODEC(" + codec + ")"
		}
	}
	return strings.Join(lines, ",\n")
}

// quote returns s as a string literal of ClickHouse.
func quote(s string) string {
	return "'" + strings.NewReplacer(`\`, `\\`, `'`, `\'`).Replace(s) + "'"
}

// functions are what a migration may say for what differs between one server and a cluster, and
// for what Go knows better. They render the form for one server.
var functions = template.FuncMap{
	"engine": func(name string, args ...string) string {
		if len(args) == 0 {
			return name
		}
		return name + "(" + strings.Join(args, ", ") + ")"
	},
	"durable": func() string {
		return "non_replicated_deduplication_window = " + strconv.Itoa(dedupWindow) + ", fsync_after_insert = 1, fsync_part_directory = 1"
	},
	"columns": func(table string) (string, error) {
		switch table {
		case "events":
			return definitions(event.Columns), nil
		case "gauges":
			return definitions(event.GaugeColumns), nil
		case "queue_gauges":
			return definitions(event.QueueGaugeColumns), nil
		case "annotations":
			return definitions(event.AnnotationColumns), nil
		default:
			return "", fmt.Errorf("no table of columns for %s", table)
		}
	},
	"rollUps": func() []rollUp { return rollUps },
	// ttl returns the clause that drops rows of table so many days after column.
	"ttl": func(_, column string, days int) string {
		return fmt.Sprintf("TTL toDateTime(%s) + INTERVAL %d DAY", column, days)
	},

	// Of the views, see rates.go.
	"measures":   func() string { return columnsOf(Measures) },
	"measuresOf": func() string { return expressionsOf(Measures) },
	"volumes":    func() string { return columnsOf(Volumes) },
	"volumesOf":  func() string { return expressionsOf(Volumes) },
	"sums":       sumsOfMeasures,
	"names":      namesOfMeasures,
	"none":       noMeasures,
	"rates":      rateColumns,
	"ratesOf":    ratesOf,
	"mature":     mature,
	"upToNow":    upToNow,
}

// migrations returns every migration of the binary in order; the versions count from 1.
var migrations = sync.OnceValues(renderMigrations)

func renderMigrations() ([]migration, error) {
	names, err := fs.Glob(migrationFiles, "migrations/*.sql")
	if err != nil {
		return nil, fmt.Errorf("list migrations: %w", err)
	}
	all := make([]migration, 0, len(names))
	for i, path := range names { // sorted by Glob
		file := strings.TrimSuffix(strings.TrimPrefix(path, "migrations/"), ".sql")
		number, name, _ := strings.Cut(file, "_")
		if version, err := strconv.ParseUint(number, 10, 32); err != nil || version != uint64(i)+1 || name == "" {
			return nil, fmt.Errorf("migration %s: want the number %d and a name", path, i+1)
		}
		source, err := migrationFiles.ReadFile(path)
		if err != nil {
			return nil, fmt.Errorf("read migration: %w", err)
		}
		t, err := template.New(path).Funcs(functions).Parse(string(source))
		if err != nil {
			return nil, fmt.Errorf("parse migration: %w", err)
		}
		var b strings.Builder
		if err := t.Execute(&b, nil); err != nil {
			return nil, fmt.Errorf("render migration: %w", err)
		}
		all = append(all, migration{
			version: uint32(i) + 1, name: name, sql: b.String(), //nolint:gosec // a handful
			checksum: crc32.ChecksumIEEE([]byte(b.String())),
		})
	}
	return all, nil
}

// statements splits SQL at each semicolon that ends a line and drops lines of comments.
func statements(sql string) []string {
	var all []string
	var b strings.Builder
	for line := range strings.Lines(sql) {
		if strings.HasPrefix(strings.TrimSpace(line), "--") {
			continue
		}
		text, ended := strings.CutSuffix(strings.TrimRight(line, " \t\r\n"), ";")
		b.WriteString(text)
		b.WriteByte('\n')
		if ended {
			all = append(all, strings.TrimSpace(b.String()))
			b.Reset()
		}
	}
	if rest := strings.TrimSpace(b.String()); rest != "" {
		all = append(all, rest)
	}
	return all
}
