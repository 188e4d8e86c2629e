package warehouse_test

import (
	"bytes"
	"flag"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/ClickHouse/clickhouse-go/v2/lib/driver"
	"github.com/google/go-cmp/cmp"

	"carom/schemas/service"
	"carom/schemas/warehouse"
	"carom/schemas/warehouse/chtest"
)

var update = flag.Bool("update", false, "write the golden files anew")

// golden compares text with a file in testdata.
func golden(t *testing.T, file, text string) {
	t.Helper()
	file = filepath.Join("testdata", file)
	if *update {
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), text); diff != "" {
		t.Errorf("%s (-golden +now; -update writes it):\n%.4000s", file, diff)
	}
}

// onCluster returns the schema's statements for a cluster, without comments.
func onCluster(t *testing.T) []string {
	t.Helper()
	var b bytes.Buffer
	if err := (warehouse.Layout{Cluster: "main"}).Print(&b, "carom"); err != nil {
		t.Fatal(err)
	}
	golden(t, "cluster.sql", b.String())
	return split(b.String())
}

// split returns the statements of printed SQL.
func split(text string) []string {
	var all []string
	for s := range strings.SplitSeq(text, ";\n") {
		lines := slices.DeleteFunc(strings.Split(s, "\n"), func(line string) bool { return strings.HasPrefix(line, "--") })
		if s := strings.TrimSpace(strings.Join(lines, "\n")); s != "" {
			all = append(all, s)
		}
	}
	return all
}

// parsed has the engine parse each statement.
func parsed(t *testing.T, conn driver.Conn, list []string) {
	t.Helper()
	for _, s := range list {
		if err := conn.Exec(t.Context(), "EXPLAIN AST "+s); err != nil {
			t.Errorf("%v:\n%s", err, s)
		}
	}
}

func TestClusterForm(t *testing.T) {
	list := onCluster(t)
	parsed(t, chtest.Start(t).Conn(t), list)
	plain := regexp.MustCompile(`(?m)^ENGINE = \w*MergeTree`)
	for _, s := range list {
		head, _, _ := strings.Cut(s, "\n")
		if !strings.Contains(head, " ON CLUSTER `main`") {
			t.Errorf("only one server would run: %s", head)
		}
		if engine := plain.FindString(s); engine != "" && !strings.Contains(engine, "Replicated") {
			t.Errorf("without replicas: %s: %s", head, engine)
		}
		if strings.Contains(s, "non_replicated_deduplication_window") || strings.Contains(s, "rand()") {
			t.Errorf("a repeated batch would be stored twice: %s", head)
		}
	}
}

// The form for a cluster holds together: the tables over all shards, views and materialized views
// are made, rows that a shard gets are in its roll-ups, and every view can be asked. The engine
// knows neither replicas nor shards: tables are plain ones here, and Merge stands for Distributed.
func TestClusterFormOnOneServer(t *testing.T) {
	if testing.Short() {
		t.Skip("takes long: runs without -short")
	}
	conn := chtest.Start(t).Conn(t)
	replicated := regexp.MustCompile(`ENGINE = Replicated(\w+)\('[^']*', '[^']*'(?:, )?(.*)\)`)
	distributed := regexp.MustCompile("ENGINE = Distributed\\(`main`, `carom`, (\\w+)[^\n]*")
	for _, s := range onCluster(t) {
		s = strings.ReplaceAll(s, " ON CLUSTER `main`", "")
		s = replicated.ReplaceAllString(s, "ENGINE = $1($2)")
		s = strings.ReplaceAll(s, ", replicated_deduplication_window_seconds = 604800", "")
		s = strings.ReplaceAll(s, "replicated_deduplication_window", "non_replicated_deduplication_window")
		s = distributed.ReplaceAllString(s, "ENGINE = Merge('default', '^$1$$')")
		s = strings.ReplaceAll(s, "AS `carom`.", "AS ")
		if err := conn.Exec(t.Context(), s); err != nil {
			t.Fatalf("%v:\n%s", err, s)
		}
	}
	if err := conn.Exec(t.Context(), `INSERT INTO events_local (node, incarnation, seq, time, kind, message_id, recipients, provider, source, tenant, dimension, attempt)
SELECT 'n', generateUUIDv4(), number + 1, now64(6), 'delivered', generateUUIDv4(), 1, 'google', '192.0.2.1', 't', 'ok', 1 FROM numbers(100)`); err != nil {
		t.Fatal(err)
	}
	for _, query := range []string{"SELECT count() FROM events", "SELECT sum(ok) FROM k10s", "SELECT sum(ok) FROM k1m", "SELECT sum(delivered) FROM provider_minutes"} {
		if n := one[uint64](t, conn, query); n != 100 {
			t.Errorf("%s: %d, want 100", query, n)
		}
	}
	for _, view := range one[[]string](t, conn, "SELECT groupArray(name) FROM system.tables WHERE database = 'default' AND engine = 'View'") {
		if err := conn.Exec(t.Context(), "SELECT count() FROM (SELECT * FROM "+view+" LIMIT 1)"); err != nil {
			t.Errorf("view %s: %v", view, err)
		}
	}
}

func TestLayoutMistakes(t *testing.T) {
	if err := (warehouse.Layout{Cluster: "a`b"}).Print(new(bytes.Buffer), "carom"); service.ExitStatus(err) != 2 {
		t.Errorf("a strange name of a cluster: %v, want exit status 2", err)
	}
	_, url := chtest.StartWithSchema(t)
	_, err := warehouse.Layout{Cluster: "main"}.Apply(t.Context(), url, warehouse.Options{}, "test")
	if service.ExitStatus(err) != 2 || !strings.Contains(err.Error(), "a cluster needs a new database") {
		t.Errorf("a cluster for a schema on one server: %v, want exit status 2", err)
	}
}
