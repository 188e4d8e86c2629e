package warehouse

import (
	"fmt"
	"io"
	"maps"
	"regexp"
	"slices"
	"strings"

	"carom/schemas/service"
)

// Layout says how the schema lies on the servers. Its zero value is one server.
//
// On a cluster, what the nodes write (events and the other streams of their logs) and what
// materialized views make of it is split over the shards: each such table X is X_local, a
// Replicated…MergeTree on every server, and X, a Distributed table over all of them. Rows of a node
// go to one shard, so that a repeated batch meets its token there. A materialized view reads and
// writes the local tables.
//
// Every other table is small and exists once, with a replica on every server of every shard: jobs
// take their turn by an insert under a token, and read state with FINAL, which is right only where
// all see one table. See deploy/docs/clickhouse-server.md.
type Layout struct {
	Cluster string // its name in remote_servers of the servers

	// RolePrefix begins the names of roles, users, profiles and row policies. It is "carom_" if
	// empty; a trial of a server gives its own.
	RolePrefix string
}

// shardingKeys tells for the tables that nodes write which shard a row belongs to. It is never
// random: a batch that is sent again must reach the shard that knows its token.
var shardingKeys = map[string]string{
	"events":       "cityHash64(node)",
	"gauges":       "cityHash64(node)",
	"annotations":  "cityHash64(node)",
	"queue_gauges": "cityHash64(node)",
}

// NodeTables returns the tables that nodes fill, sorted.
func NodeTables() []string { return slices.Sorted(maps.Keys(shardingKeys)) }

var clusterName = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_.-]{0,63}$`)

func (l Layout) validate() error {
	if l.Cluster != "" && !clusterName.MatchString(l.Cluster) {
		return service.Configf("--cluster %q is no name of a cluster: want letters, digits, dots, dashes and underscores", l.Cluster)
	}
	return nil
}

// onCluster is what follows the name of the object in a statement.
func (l Layout) onCluster() string {
	if l.Cluster == "" {
		return ""
	}
	return " ON CLUSTER `" + l.Cluster + "`"
}

// local returns the name of the table that holds the rows of table.
func (l Layout) local(table string) (string, error) {
	if l.Cluster == "" {
		return table, nil
	}
	sharded, err := shardedTables()
	if err != nil {
		return "", err
	}
	return localName(table, sharded), nil
}

// localSuffix ends the names of the tables of one shard.
const localSuffix = "_local"

// localName returns the name of the table that holds the rows of table on a cluster.
func localName(table string, sharded map[string]bool) string {
	if sharded[table] {
		return table + localSuffix
	}
	return table
}

// The forms of statement that migrations consist of.
var (
	createTable = regexp.MustCompile(`^CREATE TABLE IF NOT EXISTS (\w+)`)
	createView  = regexp.MustCompile(`^CREATE VIEW IF NOT EXISTS (\w+)`)
	createFill  = regexp.MustCompile(`^CREATE MATERIALIZED VIEW IF NOT EXISTS (\w+) TO (\w+)`)
	readTable   = regexp.MustCompile(`\b(FROM|JOIN)(\s+)(\w+)\b`)
	mergeTree   = regexp.MustCompile(`(?m)^ENGINE = (\w*MergeTree)(?:\((.*)\))?$`)
	dedupRule   = regexp.MustCompile(`non_replicated_deduplication_window = (\d+)`)
	comment     = regexp.MustCompile(`(?m)^COMMENT '(?:[^'\\]|\\.|'')*'$`)
)

// shardedTables returns the tables that are split over the shards: those that nodes write, and
// those that materialized views fill from them.
func shardedTables() (map[string]bool, error) {
	all, err := migrations()
	if err != nil {
		return nil, err
	}
	targets := map[string]string{} // of a view, to the table that it follows
	tables := map[string]bool{}
	for _, m := range all {
		for _, s := range statements(m.sql) {
			if t := createTable.FindStringSubmatch(s); t != nil {
				tables[t[1]] = true
			}
			if v := createFill.FindStringSubmatch(s); v != nil {
				from := readTable.FindStringSubmatch(s)
				if from == nil {
					return nil, fmt.Errorf("migration %d %s: %s follows no table", m.version, m.name, v[1])
				}
				targets[v[2]] = from[3]
			}
		}
	}
	sharded := map[string]bool{}
	for table := range shardingKeys {
		sharded[table] = tables[table]
	}
	for range targets { // a view may follow the target of another
		for target, from := range targets {
			sharded[target] = sharded[target] || sharded[from]
		}
	}
	maps.DeleteFunc(sharded, func(_ string, is bool) bool { return !is })
	return sharded, nil
}

// render returns the statements of a migration for the layout, in order. database is named only
// where the servers of a cluster must not take their own default for it.
func (l Layout) render(sql, database string) ([]string, error) {
	list := statements(sql)
	if l.Cluster == "" {
		return list, nil
	}
	sharded, err := shardedTables()
	if err != nil {
		return nil, err
	}
	var all []string
	for _, s := range list {
		rendered, err := l.statement(s, database, sharded)
		if err != nil {
			return nil, err
		}
		all = append(all, rendered...)
	}
	return all, nil
}

func (l Layout) statement(s, database string, sharded map[string]bool) ([]string, error) {
	if m := createTable.FindStringSubmatch(s); m != nil {
		return l.table(s, m[1], database, sharded)
	}
	if m := createFill.FindStringSubmatch(s); m != nil {
		head := fmt.Sprintf("CREATE MATERIALIZED VIEW IF NOT EXISTS %s%s TO %s", m[1], l.onCluster(), localName(m[2], sharded))
		rest := readTable.ReplaceAllStringFunc(s[len(m[0]):], func(from string) string {
			p := readTable.FindStringSubmatch(from)
			return p[1] + p[2] + localName(p[3], sharded)
		})
		return []string{head + rest}, nil
	}
	if m := createView.FindStringSubmatch(s); m != nil {
		return []string{m[0] + l.onCluster() + s[len(m[0]):]}, nil
	}
	first, _, _ := strings.Cut(s, "\n")
	return nil, fmt.Errorf("there is no form for a cluster of %q", first)
}

// table renders a table that is on every server, and for a sharded one the table over all shards.
func (l Layout) table(s, name, database string, sharded map[string]bool) ([]string, error) {
	engine := mergeTree.FindStringSubmatch(s)
	if engine == nil {
		return nil, fmt.Errorf("table %s: there is no form of its engine for a cluster", name)
	}
	// Where every server has a replica, their names must differ over the shards too.
	place := "'/clickhouse/tables/{database}/{table}/all', '{shard}-{replica}'"
	if sharded[name] {
		place = "'/clickhouse/tables/{database}/{table}/{shard}', '{replica}'"
	}
	if engine[2] != "" {
		place += ", " + engine[2]
	}
	body := strings.Replace(s[len("CREATE TABLE IF NOT EXISTS ")+len(name):], engine[0], "ENGINE = Replicated"+engine[1]+"("+place+")", 1)
	// The window of a table with replicas ends by age as well. A week is longer than any log waits.
	body = dedupRule.ReplaceAllString(body, "replicated_deduplication_window = $1, replicated_deduplication_window_seconds = 604800")
	local := localName(name, sharded)
	body = "CREATE TABLE IF NOT EXISTS " + local + l.onCluster() + body
	if !sharded[name] {
		return []string{body}, nil
	}
	// Without a key nobody inserts through it: views fill the local tables.
	key := shardingKeys[name]
	if key != "" {
		key = ", " + key
	}
	return []string{body, fmt.Sprintf("CREATE TABLE IF NOT EXISTS %s%s AS `%s`.%s\nENGINE = Distributed(`%s`, `%s`, %s%s)\n%s",
		name, l.onCluster(), database, local, l.Cluster, database, local, key, comment.FindString(s))}, nil
}

// bootstrapOn is bootstrap in the form of the layout.
func (l Layout) bootstrapOn(database string) (string, error) {
	list, err := l.render(bootstrap, database)
	if err != nil {
		return "", err
	}
	return list[0], nil
}

// Print writes the SQL of every migration to w, for the given database.
func (l Layout) Print(w io.Writer, database string) error {
	if err := l.validate(); err != nil {
		return err
	}
	all, err := migrations()
	if err != nil {
		return err
	}
	first, err := l.bootstrapOn(database)
	if err != nil {
		return err
	}
	if l.Cluster != "" {
		first = "CREATE DATABASE IF NOT EXISTS `" + database + "`" + l.onCluster() + ";\n\n" + first
	}
	if _, err := fmt.Fprintf(w, "%s;\n\n", first); err != nil {
		return fmt.Errorf("print schema: %w", err)
	}
	for _, m := range all {
		text := m.sql
		if l.Cluster != "" {
			list, err := l.render(m.sql, database)
			if err != nil {
				return fmt.Errorf("render migration %d %s: %w", m.version, m.name, err)
			}
			text = strings.Join(list, ";\n\n") + ";\n"
		}
		if _, err := fmt.Fprintf(w, "-- Migration %d: %s\n\n%s\n", m.version, m.name, text); err != nil {
			return fmt.Errorf("print schema: %w", err)
		}
	}
	return nil
}

// Tables returns the names of the tables and views of the schema in the layout, sorted.
func (l Layout) Tables() ([]string, error) {
	all, err := migrations()
	if err != nil {
		return nil, err
	}
	names := []string{"schema_migrations"}
	for _, m := range all {
		list, err := l.render(m.sql, DefaultDatabase)
		if err != nil {
			return nil, fmt.Errorf("render migration %d %s: %w", m.version, m.name, err)
		}
		for _, s := range list {
			if o := object.FindStringSubmatch(s); o != nil {
				names = append(names, o[1])
			}
		}
	}
	slices.Sort(names)
	return slices.Compact(names), nil
}

var object = regexp.MustCompile(`^CREATE (?:TABLE|VIEW|MATERIALIZED VIEW) IF NOT EXISTS (\w+)`)
