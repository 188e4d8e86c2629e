package warehouse

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/ClickHouse/clickhouse-go/v2/lib/driver"

	"carom/schemas/event"
	"carom/schemas/service"
)

// bootstrap makes the table that remembers what was applied. It is not a migration itself,
// because the first one needs it.
const bootstrap = `CREATE TABLE IF NOT EXISTS schema_migrations
(
    version UInt32 COMMENT 'number of the migration',
    name String COMMENT 'its name',
    checksum UInt32 COMMENT 'CRC-32 of its SQL',
    applied_at DateTime64(6, 'UTC') COMMENT 'when it was applied',
    applied_by String COMMENT 'version of carom that applied it'
)
ENGINE = ReplacingMergeTree(applied_at)
ORDER BY version
COMMENT 'Migrations that were applied to this database; read with FINAL'`

var (
	// ErrSchemaBehind is returned by Check for a database that lacks migrations.
	ErrSchemaBehind = errors.New("schema is older than this carom: run carom schema apply")
	// ErrSchemaAhead is returned by Apply for a database with migrations that this binary lacks.
	ErrSchemaAhead = errors.New("schema is newer than this carom: use the carom that made it, or a later one")
	// ErrSchemaChanged is returned by Apply for a migration that was applied in another form.
	ErrSchemaChanged = errors.New("migration was applied in another form; until 1.0 the schema may change: use a new database")
	// ErrOtherLayout is returned by Apply for a schema that is on a cluster, or is not, unlike the layout.
	ErrOtherLayout = errors.New("the schema of this database has another layout")
)

// Migration is the state of one numbered step of the schema.
type Migration struct {
	Version   uint32     `json:"version"`
	Name      string     `json:"name"`
	AppliedAt *time.Time `json:"applied_at"` // nil if it is not applied
	AppliedBy string     `json:"applied_by,omitempty"`
	Changed   bool       `json:"changed,omitempty"` // applied in another form than this binary has
	Unknown   bool       `json:"unknown,omitempty"` // applied, but not in this binary
}

// Apply is Layout.Apply on one server.
func Apply(ctx context.Context, rawURL string, o Options, by string) ([]Migration, error) {
	return Layout{}.Apply(ctx, rawURL, o, by)
}

// Apply creates the database of rawURL and applies the migrations that it lacks, in order, on every
// server of the cluster if there is one. by is the version of carom, to be remembered. Applying
// twice, or twice at once, changes nothing. It returns what it applied; the error wraps
// ErrSchemaAhead, ErrSchemaChanged or ErrOtherLayout where that is the cause.
func (l Layout) Apply(ctx context.Context, rawURL string, o Options, by string) ([]Migration, error) {
	if err := l.validate(); err != nil {
		return nil, err
	}
	all, err := migrations()
	if err != nil {
		return nil, err
	}
	opt, err := parse(rawURL, o)
	if err != nil {
		return nil, err
	}
	database := opt.Auth.Database
	conn, err := open(opt)
	if err != nil {
		return nil, err
	}
	defer func() { _ = conn.Close() }() // every statement was answered
	if err := conn.Ping(ctx); code(err) == codeUnknownDatabase {
		if err := l.createDatabase(ctx, rawURL, o); err != nil {
			return nil, err
		}
	} else if err != nil {
		return nil, Explain(rawURL, o, err)
	}
	if err := l.matches(ctx, conn); err != nil {
		return nil, err
	}
	if l.Cluster != "" {
		if err := l.createDatabase(ctx, rawURL, o); err != nil { // the other servers may lack it
			return nil, err
		}
	}
	first, err := l.bootstrapOn(database)
	if err != nil {
		return nil, err
	}
	if err := conn.Exec(ctx, first); err != nil {
		return nil, fmt.Errorf("create schema_migrations: %w", err)
	}
	states, err := Status(ctx, conn)
	if err != nil {
		return nil, err
	}
	for _, s := range states {
		switch {
		case s.Unknown:
			return nil, fmt.Errorf("migration %d %s: %w", s.Version, s.Name, ErrSchemaAhead)
		case s.Changed:
			return nil, fmt.Errorf("migration %d %s: %w", s.Version, s.Name, ErrSchemaChanged)
		}
	}
	var applied []Migration
	for i, m := range all {
		if states[i].AppliedAt != nil {
			continue
		}
		list, err := l.render(m.sql, database)
		if err != nil {
			return applied, fmt.Errorf("render migration %d %s: %w", m.version, m.name, err)
		}
		for _, statement := range list {
			if err := conn.Exec(ctx, statement); err != nil {
				return applied, fmt.Errorf("apply migration %d %s: %w", m.version, m.name, err)
			}
		}
		now := time.Now().UTC()
		if err := conn.Exec(ctx, "INSERT INTO schema_migrations (version, name, checksum, applied_at, applied_by) VALUES (?, ?, ?, now64(6), ?)",
			m.version, m.name, m.checksum, by); err != nil {
			return applied, fmt.Errorf("remember migration %d %s: %w", m.version, m.name, err)
		}
		applied = append(applied, Migration{Version: m.version, Name: m.name, AppliedAt: &now, AppliedBy: by})
	}
	if len(applied) == 0 || len(applied) == len(all) { // nothing, or a new database
		return applied, nil
	}
	return applied, annotateSchema(ctx, conn, applied, by)
}

// annotateSchema writes down for people that the schema changed.
func annotateSchema(ctx context.Context, conn driver.Conn, applied []Migration, by string) error {
	names := make([]string, len(applied))
	for i, m := range applied {
		names[i] = fmt.Sprintf("%d %s", m.Version, m.Name)
	}
	_, err := Annotate(ctx, conn, event.Annotation{
		Node: "schema", Time: *applied[len(applied)-1].AppliedAt, Name: "schema",
		Text: fmt.Sprintf("carom %s changed the schema: %s", by, strings.Join(names, ", ")), Tags: []string{"schema", by},
	})
	if err != nil {
		return fmt.Errorf("annotate the change of the schema: %w", err)
	}
	return nil
}

// createDatabase connects to the database that always exists and creates the one of rawURL.
func (l Layout) createDatabase(ctx context.Context, rawURL string, o Options) error {
	opt, err := parse(rawURL, o)
	if err != nil {
		return err
	}
	database := opt.Auth.Database
	opt.Auth.Database = "default"
	conn, err := open(opt)
	if err != nil {
		return err
	}
	defer func() { _ = conn.Close() }() // every statement was answered
	if err := conn.Exec(ctx, "CREATE DATABASE IF NOT EXISTS `"+database+"`"+l.onCluster()); err != nil {
		return Explain(rawURL, o, err)
	}
	return nil
}

// matches returns an error that wraps ErrOtherLayout if the schema lies otherwise already.
func (l Layout) matches(ctx context.Context, conn driver.Conn) error {
	replicated, err := onCluster(ctx, conn)
	switch {
	case err != nil || replicated == nil:
		return err
	case *replicated && l.Cluster == "":
		return service.Configf("%w: it is on a cluster, say which by --cluster", ErrOtherLayout)
	case !*replicated && l.Cluster != "":
		return service.Configf("%w: it is on one server; a cluster needs a new database", ErrOtherLayout)
	}
	return nil
}

// onCluster reports whether the schema in the database of conn has the form for a cluster; nil if
// there is no schema.
func onCluster(ctx context.Context, conn driver.Conn) (*bool, error) {
	var engines []string
	err := conn.QueryRow(ctx, "SELECT groupArray(engine) FROM system.tables WHERE database = currentDatabase() AND name = 'schema_migrations'").Scan(&engines)
	if err != nil || len(engines) == 0 {
		return nil, err
	}
	is := strings.HasPrefix(engines[0], "Replicated")
	return &is, nil
}

// Status returns the state of every migration that the binary or the database knows, in order.
func Status(ctx context.Context, conn driver.Conn) ([]Migration, error) {
	all, err := migrations()
	if err != nil {
		return nil, err
	}
	states := make([]Migration, len(all))
	for i, m := range all {
		states[i] = Migration{Version: m.version, Name: m.name}
	}
	rows, err := conn.Query(ctx, "SELECT version, name, checksum, applied_at, applied_by FROM schema_migrations FINAL ORDER BY version")
	if code(err) == codeUnknownTable {
		return states, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read schema_migrations: %w", err)
	}
	defer func() { _ = rows.Close() }() // Err tells what went wrong
	for rows.Next() {
		var s Migration
		var at time.Time
		var checksum uint32
		if err := rows.Scan(&s.Version, &s.Name, &checksum, &at, &s.AppliedBy); err != nil {
			return nil, fmt.Errorf("read schema_migrations: %w", err)
		}
		s.AppliedAt = &at
		if i := int(s.Version) - 1; i >= 0 && i < len(all) {
			s.Changed = s.Name != all[i].name || checksum != all[i].checksum
			states[i] = s
		} else {
			s.Unknown = true
			states = append(states, s)
		}
	}
	if err := rows.Err(); err != nil {
		return nil, fmt.Errorf("read schema_migrations: %w", err)
	}
	return states, nil
}

// Check returns a service.ConfigError that wraps ErrSchemaBehind if the database lacks a migration of this
// binary. A database that is ahead is fine for reading and inserting: migrations only add.
func Check(ctx context.Context, conn driver.Conn) error {
	states, err := Status(ctx, conn)
	if err != nil {
		return err
	}
	for _, s := range states {
		if s.AppliedAt == nil {
			return service.Configf("migration %d %s is missing: %w", s.Version, s.Name, ErrSchemaBehind)
		}
	}
	return nil
}

// Version returns the number of the last migration of this binary.
func Version() uint32 {
	all, err := migrations()
	if err != nil {
		return 0 // the embedded files are wrong, which Apply and Status report
	}
	return uint32(len(all)) //nolint:gosec // a handful
}
