//go:build unix

package engine_test

import (
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"carom/schemas/warehouse/chtest"
)

// tenants starts an engine with carom's names of tables, of which two tenants have rows.
func tenants(t *testing.T) (owner, acme string) {
	t.Helper()
	dir := t.TempDir()
	args := make([]string, 0, 4)
	for tenant, password := range map[string]string{"acme": "anvil", "o'neil\\": "other"} {
		file := filepath.Join(dir, "password-"+password)
		if err := os.WriteFile(file, []byte(password+"\n"), 0o600); err != nil {
			t.Fatal(err)
		}
		args = append(args, "--tenant", tenant+"="+file)
	}
	server := chtest.Start(t, args...)
	for _, sql := range []string{
		"CREATE TABLE events (tenant LowCardinality(String), seq UInt64) ENGINE = MergeTree ORDER BY seq",
		"CREATE TABLE nodes (node String) ENGINE = MergeTree ORDER BY node",
		"CREATE VIEW attributed AS SELECT tenant, count() AS n FROM events GROUP BY tenant", // a name that carom has for tenants
		"CREATE TABLE `events.nodes` (tenant String) ENGINE = MergeTree ORDER BY tenant",
		"CREATE DICTIONARY whose (seq UInt64, tenant String) PRIMARY KEY seq SOURCE(CLICKHOUSE(TABLE 'events')) LAYOUT(FLAT()) LIFETIME(0)",
		"CREATE DATABASE another",
		"CREATE TABLE another.events (tenant String) ENGINE = MergeTree ORDER BY tenant",
	} {
		mustPost(t, server.URL(), sql)
	}
	mustPost(t, server.URL(), `INSERT INTO events VALUES ('acme', 1), ('acme', 2), ('o\'neil\\', 3), ('beta', 4), ('beta', 5)`)
	mustPost(t, server.URL(), "INSERT INTO another.events VALUES ('acme'), ('beta')")
	mustPost(t, server.URL(), "INSERT INTO nodes VALUES ('mx1')")
	mustPost(t, server.URL(), "INSERT INTO `events.nodes` VALUES ('acme'), ('beta')")
	return server.URL(), "http://" + url.UserPassword("carom_tenant_acme", "anvil").String() + "@" + server.Addr() + "/"
}

// A tenant's user sees the tenant's rows, however the statement gets at them.
func TestTenantSees(t *testing.T) {
	owner, acme := tenants(t)
	for sql, want := range map[string]string{
		"SELECT count() FROM events":                                                                                       "2\n",
		"SELECT count(), uniq(tenant), max(seq) FROM events":                                                               "2\t1\t2\n",
		"SELECT min(seq) FROM events WHERE seq > 2":                                                                        "0\n",
		"SELECT tenant FROM events GROUP BY tenant WITH TOTALS":                                                            "acme\n\n\n",
		"SELECT seq FROM default.events ORDER BY seq DESC LIMIT 1":                                                         "2\n",
		"SELECT max(seq) FROM `default`.`events` AS nodes":                                                                 "2\n",
		"SELECT seq FROM events PREWHERE seq = 4":                                                                          "",
		"SELECT * FROM another.events":                                                                                     "acme\n",
		"SELECT max(seq) FROM (SELECT * FROM events)":                                                                      "2\n",
		"SELECT max(seq) FROM view(SELECT * FROM events)":                                                                  "2\n",
		"WITH e AS (SELECT * FROM events) SELECT max(seq) FROM e":                                                          "2\n",
		"SELECT (SELECT max(seq) FROM events)":                                                                             "2\n",
		"SELECT toUInt64(4) IN (SELECT seq FROM events)":                                                                   "0\n",
		"SELECT ('beta', toUInt64(4)) IN events":                                                                           "0\n",
		"SELECT ('mx1') IN nodes":                                                                                          "0\n",
		"SELECT number FROM numbers(6) WHERE number GLOBAL IN (SELECT seq FROM events) ORDER BY number":                    "1\n2\n",
		"SELECT max(b.seq) FROM numbers(6) AS a JOIN events AS b ON a.number = b.seq":                                      "2\n",
		"SELECT max(seq) FROM (SELECT seq FROM events UNION ALL SELECT seq FROM events)":                                   "2\n",
		"(SELECT seq FROM events WHERE seq > 1) UNION ALL (SELECT seq FROM events WHERE seq > 2 SETTINGS max_threads = 1)": "2\n",
		"SELECT seq FROM events WHERE seq > 1 UNION ALL SELECT seq FROM events WHERE seq > 2 SETTINGS max_threads = 1":     "2\n",
		"SELECT seq FROM events WHERE seq > 1 INTERSECT SELECT seq FROM events":                                            "2\n",
		"SELECT count() FROM events FORMAT TSV SETTINGS max_threads = 1":                                                   "2\n",
		"SELECT * FROM attributed":                                                                                         "acme\t2\n",
		"SELECT DISTINCT tenant FROM events":                                                                               "acme\n",
		"SELECT 1 WHERE EXISTS (SELECT 1 FROM events WHERE seq = 4)":                                                       "",
		"SELECT table_name FROM information_schema.tables WHERE table_schema = 'another'":                                  "events\n",
		"SELECT name FROM system.tables WHERE database = 'default' ORDER BY name":                                          "attributed\nevents\n",
		"SELECT DISTINCT table FROM system.columns WHERE database = 'default' ORDER BY table":                              "attributed\nevents\n",
		"DESCRIBE TABLE events FORMAT Null":                                                                                "",
	} {
		if code, body := post(t, acme, sql); code != 0 || body != want {
			t.Errorf("%s = %d %q, want %q", sql, code, body, want)
		}
	}
	if got := mustPost(t, acme+"?param_t=events", "SELECT count() FROM {t:Identifier}"); got != "2\n" {
		t.Errorf("a table by parameter: %q", got)
	}
	neil := strings.Replace(acme, "carom_tenant_acme:anvil", url.UserPassword(`carom_tenant_o'neil\`, "other").String(), 1)
	if got := mustPost(t, neil, "SELECT seq FROM events"); got != "3\n" {
		t.Errorf("a name with a quote and a backslash sees %q", got)
	}
	if got := mustPost(t, owner, "SELECT count() FROM events"); got != "5\n" {
		t.Errorf("the owner sees %q", got)
	}
}

// What a tenant's user may not read is said, and not answered by nothing.
func TestTenantMayNot(t *testing.T) {
	_, acme := tenants(t)
	for _, tc := range []struct {
		sql, params string
		code        int // 0: it has no row of another's
	}{
		{"SELECT * FROM nodes", "", 497},
		{"SELECT * FROM default.nodes", "", 497},
		{"SELECT * FROM `nodes`", "", 497},
		{"SELECT * FROM `events.nodes`", "", 0},
		{"SELECT * FROM default.`events.nodes`", "", 497},
		{"SELECT (SELECT count() FROM nodes)", "", 497},
		{"SELECT * FROM {t:Identifier}", "param_t=nodes", 497},
		{"SELECT * FROM whose", "", 497},
		{"SELECT dictGet('default.whose', 'tenant', 4)", "", 497},
		{"SELECT DICTGETORNULL('default.whose', 'tenant', 4)", "", 497},
		{"SELECT * FROM dictionary('whose')", "", 497},
		{"SELECT * FROM merge('default', 'events')", "", 497},
		{"SELECT rows FROM system.parts", "", 497},
		{"EXPLAIN ESTIMATE SELECT * FROM events", "", 497},
		{"SELECT * FROM events SETTINGS additional_table_filters = {}", "", 164},
		{"SELECT * FROM (SELECT * FROM events SETTINGS additional_table_filters = {'a': '1'})", "", 164},
		{"SELECT * FROM events", "additional_table_filters=%7B%7D", 164},
		{"SELECT * FROM events SETTINGS enable_analyzer = 0", "", 164},
		{"SELECT * FROM events", "use_query_cache=1", 164},
		{"SELECT * FROM events AS `system.tables`", "", 497},
		{"WITH 'events' AS name SELECT * FROM events AS `system.tables`", "", 497},
		{"SELECT * FROM (SELECT * FROM events AS `system.columns`)", "", 497},
		{"SELECT * FROM events AS `default.nodes`", "", 0},
		{"SELECT toUInt64(4) IN whose", "", 0},
		{"INSERT INTO events VALUES ('acme', 6)", "", 164},
	} {
		code, body := post(t, acme+"?"+tc.params, tc.sql)
		if code != tc.code && tc.code != 0 || strings.Contains(body, "beta") {
			t.Errorf("%s = %d %q, want %d", tc.sql, code, body, tc.code)
		}
	}
}
