package warehouse_test

import (
	"bytes"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"carom/schemas/service"
	"carom/schemas/warehouse"
	"carom/schemas/warehouse/chtest"
)

// granted returns the objects on which the role has the right on one server.
func granted(sql, right, role string) []string {
	found := regexp.MustCompile(fmt.Sprintf("(?m)^GRANT %s ON `carom`\\.(?:`(\\w+)`|(\\*)) TO `%s`;", right, role)).FindAllStringSubmatch(sql, -1)
	all := make([]string, 0, len(found))
	for _, m := range found {
		all = append(all, m[1]+m[2])
	}
	slices.Sort(all)
	return all
}

func rolesFor(t *testing.T, l warehouse.Layout, tenants []string, p warehouse.Passwords) string {
	t.Helper()
	var b bytes.Buffer
	if err := l.Roles(&b, "carom", tenants, p); err != nil {
		t.Fatal(err)
	}
	return b.String()
}

// named returns what the sources of a folder's packages name by the patterns, of the objects given.
func named(t *testing.T, folder string, objects []string, patterns ...*regexp.Regexp) []string {
	t.Helper()
	found := map[string]bool{}
	err := filepath.WalkDir(folder, func(path string, _ fs.DirEntry, err error) error {
		if err != nil || !strings.HasSuffix(path, ".go") || strings.HasSuffix(path, "_test.go") {
			return err
		}
		text, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		for _, pattern := range patterns {
			for _, m := range pattern.FindAllStringSubmatch(string(text), -1) {
				if slices.Contains(objects, m[1]) {
					found[m[1]] = true
				}
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return slices.Sorted(maps.Keys(found))
}

// A role may do what the code of its part does, and nothing else.
func TestRolesFollowTheCode(t *testing.T) {
	objects, err := warehouse.Layout{}.Tables()
	if err != nil {
		t.Fatal(err)
	}
	sql := rolesFor(t, warehouse.Layout{}, nil, nil)
	inserts := []*regexp.Regexp{
		regexp.MustCompile(`INSERT INTO\s+(\w+)`),             // in SQL
		regexp.MustCompile(`insert\(.*"(\w+)", \[\]string\{`), // by the jobs' function
	}
	reads := regexp.MustCompile(`\b(?:FROM|JOIN)\s+(\w+)`)

	// What ships the log writes, and reads, the tables of insert.go.
	text, err := os.ReadFile("insert.go")
	if err != nil {
		t.Fatal(err)
	}
	variables := map[string]string{}
	for _, m := range regexp.MustCompile(`(\w+)\s+= Table\[[\w.]+\]\{"(\w+)"`).FindAllStringSubmatch(string(text), -1) {
		variables[m[1]] = m[2]
	}
	tables := func(folder, pattern string) []string {
		list := named(t, folder, slices.Collect(maps.Keys(variables)), regexp.MustCompile(pattern))
		for i, v := range list {
			list[i] = variables[v]
		}
		slices.Sort(list)
		return list
	}
	streams := tables(filepath.Join("..", "..", "ingest", "ship"), `\bwarehouse\.(\w+)`)
	if diff := cmp.Diff(warehouse.NodeTables(), streams); diff != "" {
		t.Errorf("tables that nodes fill (-NodeTables +insert.go and ingest/ship):\n%s", diff)
	}
	with := func(list []string, more ...string) []string {
		list = append(list, more...)
		slices.Sort(list)
		return slices.Compact(list)
	}
	ingest := filepath.Join("..", "..", "ingest")
	if diff := cmp.Diff(with(named(t, ingest, objects, inserts...), streams...), granted(sql, "INSERT", "carom_ingest")); diff != "" {
		t.Errorf("carom_ingest may insert into (-what its code does +roles.go):\n%s", diff)
	}
	if diff := cmp.Diff(with(named(t, ingest, objects, reads), slices.Concat(streams, []string{"schema_migrations"})...), granted(sql, "SELECT", "carom_ingest")); diff != "" {
		t.Errorf("carom_ingest may read (-what its code does +roles.go):\n%s", diff)
	}
	analytics := filepath.Join("..", "..", "analytics")
	jobs := with(named(t, analytics, objects, inserts...), tables(analytics, `\bwarehouse\.(\w+)\.Insert`)...)
	if len(named(t, analytics, []string{"Annotate"}, regexp.MustCompile(`\bwarehouse\.(Annotate)\(`))) > 0 {
		jobs = with(jobs, "annotations")
	}
	want := slices.Concat(jobs, warehouse.RollUps())
	slices.Sort(want)
	if diff := cmp.Diff(want, slices.Sorted(slices.Values(slices.Concat(granted(sql, "INSERT", "carom_analytics"), granted(sql, "INSERT, ALTER DELETE", "carom_analytics"))))); diff != "" {
		t.Errorf("carom_analytics may insert into (-what its code does +roles.go):\n%s", diff)
	}
	for role, want := range map[string][]string{"carom_analytics": {"*"}, "carom_grafana": {"*"}} {
		if got := granted(sql, "SELECT", role); !slices.Equal(got, want) {
			t.Errorf("%s may read %v, want %v", role, got, want)
		}
	}
	if got := granted(sql, "INSERT", "carom_grafana"); len(got) > 0 {
		t.Errorf("carom_grafana may insert into %v", got)
	}
	if strings.Contains(sql, "GRANT ALL") || strings.Contains(sql, "*.*") {
		t.Error("a role has rights beyond its database")
	}
}

func TestRolesForCluster(t *testing.T) {
	sql := rolesFor(t, warehouse.Layout{Cluster: "main"}, []string{"acme", "o'neill `x`"}, nil)
	golden(t, "roles.sql", sql)
	list := split(sql)
	parsed(t, chtest.Start(t).Conn(t), list)
	for _, s := range list {
		if !strings.Contains(s, "ON CLUSTER `main`") {
			t.Errorf("only one server would run: %s", s)
		}
	}
}

// What a tenant's role reaches has a policy, and everybody else keeps seeing it.
func TestTenantsSeeOnlyTheirs(t *testing.T) {
	sql := rolesFor(t, warehouse.Layout{Cluster: "main"}, []string{"acme"}, nil)
	views := map[string]bool{}
	var b bytes.Buffer
	if err := (warehouse.Layout{}).Print(&b, "carom"); err != nil {
		t.Fatal(err)
	}
	for _, m := range regexp.MustCompile(`CREATE VIEW IF NOT EXISTS (\w+)`).FindAllStringSubmatch(b.String(), -1) {
		views[m[1]] = true
	}
	n := 0
	for _, m := range regexp.MustCompile("GRANT ON CLUSTER `main` SELECT ON `carom`\\.`(\\w+)` TO `carom_tenant_acme`").FindAllStringSubmatch(sql, -1) {
		n++
		if views[m[1]] {
			continue
		}
		for _, policy := range []string{
			"`carom_tenant_acme` ON CLUSTER `main` ON `carom`.`" + m[1] + "` FOR SELECT USING tenant = 'acme' TO `carom_tenant_acme`;",
			"`carom_everybody_else` ON CLUSTER `main` ON `carom`.`" + m[1] + "` FOR SELECT USING 1 TO ALL EXCEPT `carom_tenant`;",
		} {
			if !strings.Contains(sql, policy) {
				t.Errorf("table %s: no policy %s", m[1], policy)
			}
		}
	}
	if n == 0 {
		t.Error("a tenant may read nothing")
	}
	for _, hidden := range []string{"suppressions", "limit_state", "k10s", "schema_migrations"} {
		if strings.Contains(sql, "SELECT ON `carom`.`"+hidden+"` TO `carom_tenant_acme`") {
			t.Errorf("a tenant may read %s", hidden)
		}
	}
}

func TestRolesCommand(t *testing.T) {
	file := filepath.Join(t.TempDir(), "password")
	if err := os.WriteFile(file, []byte("hunter2\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	run := func(args ...string) (string, error) {
		var out bytes.Buffer
		err := warehouse.Command(t.Context(), append([]string{"roles"}, args...), service.IO{Out: &out, Err: &out}, "1.0")
		return out.String(), err
	}
	out, err := run("--url", "clickhouse://ch/mail", "--password-from", "carom_grafana="+file)
	if err != nil || !strings.Contains(out, "GRANT SELECT ON `mail`.* TO `carom_grafana`;") || !strings.Contains(out, "CREATE USER IF NOT EXISTS `carom_grafana_user` IDENTIFIED WITH sha256_hash") {
		t.Errorf("roles: %v\n%s", err, out)
	}
	if strings.Contains(out, "hunter2") {
		t.Error("the SQL holds the password")
	}
	parsed(t, chtest.Start(t).Conn(t), split(out))
	for _, args := range [][]string{
		{"--password-from", "nobody=" + file},
		{"--password-from", "carom_grafana"},
		{"--password-from", "carom_grafana=/nowhere/password"},
		{"--tenant", ""},
		{"--tenant", "a\nb"},
		{"--cluster", "a b"},
		{"more"},
	} {
		if _, err := run(args...); service.ExitStatus(err) != 2 {
			t.Errorf("roles %q: %v, want exit status 2", args, err)
		}
	}
}
