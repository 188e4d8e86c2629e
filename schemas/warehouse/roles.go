package warehouse

import (
	"cmp"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"maps"
	"regexp"
	"slices"
	"strings"

	"carom/schemas/service"
)

// A role is what one part of carom may do on a server.
type role struct {
	name    string
	about   string
	inserts []string // tables
	selects []string // tables and views; nil for all of the database
	rollsUp bool     // fills and mends the roll-ups (RollUp, Rebuild), in tables that it makes for the time
}

// roles are held to what the code says by a test: a part that begins to write or read a table needs
// it here.
var roles = []role{
	{
		name: ingestRole, about: "the agents of the nodes, and imports",
		inserts: []string{"annotations", "events", "gauges", "imports", "nodes", "queue_gauges"},
		selects: []string{
			"annotations", "events", "gauges", "queue_gauges", // what of the last batch is stored
			"imports", "leases", "schema_migrations", "suppression_changes", "suppressions",
		},
	},
	{
		name: analyticsRole, about: "the jobs, and carom's commands that change limits and suppressions",
		inserts: []string{
			"annotations", "attributions", "job_runs", "leases", "limit_log", "limit_state", "soft_bounces", "suppression_waves",
			"suppressions", "webhook_deliveries",
		},
		rollsUp: true,
	},
	{name: grafanaRole, about: "people and dashboards: everything, read-only, within bounds"},
}

// The roles' names without their prefix. tenantRole is the parent of the roles of tenants.
const (
	ingestRole    = "ingest"
	analyticsRole = "analytics"
	grafanaRole   = "grafana"
	tenantRole    = "tenant"
)

// role returns the full name of a role.
func (l Layout) role(name string) string { return cmp.Or(l.RolePrefix, "carom_") + name }

// roleSettings are the bounds of a role's queries. On a cluster an insert of the nodes is confirmed
// when most replicas have it. The jobs see everything that they wrote, whichever server they ask:
// that needs a quorum whose inserts come one after another, and reads that refuse a replica which
// lags. A job that meets another's insert fails with code 286 and runs again.
func (l Layout) roleSettings(role string) []string {
	var all []string
	if l.Cluster != "" {
		all = append(all, "insert_distributed_sync = 1", "distributed_product_mode = 'global'")
	}
	switch {
	case role == ingestRole && l.Cluster != "":
		all = append(all, "insert_quorum = 'auto'")
	case role == analyticsRole && l.Cluster != "":
		all = append(all, "insert_quorum = 'auto'", "insert_quorum_parallel = 0", "select_sequential_consistency = 1")
	case role == grafanaRole, strings.HasPrefix(role, tenantRole):
		// readonly = 2: a dashboard may set what does not write, but not go past the bounds.
		all = append(all, "readonly = 2 READONLY", "max_execution_time = 30 MIN 1 MAX 60", "max_memory_usage = 4000000000 MIN 1 MAX 4000000000",
			"max_memory_usage_for_user = 8000000000 READONLY", "max_concurrent_queries_for_user = 20 READONLY",
			"max_result_rows = 1000000 MIN 1 MAX 1000000", "max_bytes_before_external_group_by = 2000000000")
	}
	return all
}

// Passwords are those of the users to be made, by role.
type Passwords map[string]string

// Roles writes to w the SQL that makes the roles on a server, and a user for each password. tenants
// are given a role each that sees only the rows of that tenant.
func (l Layout) Roles(w io.Writer, database string, tenants []string, passwords Passwords) error {
	if err := l.validate(); err != nil {
		return err
	}
	list, err := l.roles(database, tenants, passwords)
	if err != nil {
		return err
	}
	if _, err := io.WriteString(w, strings.Join(list, ";\n")+";\n"); err != nil {
		return fmt.Errorf("print roles: %w", err)
	}
	return nil
}

func (l Layout) roles(database string, tenants []string, passwords Passwords) ([]string, error) {
	known := map[string]bool{}
	var list []string
	add := func(format string, args ...any) { list = append(list, fmt.Sprintf(format, args...)) }
	create := func(name string) {
		full := l.role(name)
		known[full] = true
		add("CREATE ROLE IF NOT EXISTS %s%s", identifier(full), l.onCluster())
		if settings := l.roleSettings(name); len(settings) > 0 {
			add("CREATE SETTINGS PROFILE IF NOT EXISTS %s%s SETTINGS %s TO %s", identifier(full), l.onCluster(), strings.Join(settings, ", "), identifier(full))
		}
	}
	grant := func(role, right string, objects []string) error {
		for _, object := range objects {
			names, err := l.both(object)
			if err != nil {
				return err
			}
			for _, name := range names {
				add("GRANT%s %s ON %s.%s TO %s", l.onCluster(), right, identifier(database), identifier(name), identifier(l.role(role)))
			}
		}
		return nil
	}
	for _, r := range roles {
		create(r.name)
		if err := grant(r.name, "INSERT", r.inserts); err != nil {
			return nil, err
		}
		if r.rollsUp { // in tables of its own, whose partitions then replace those of the roll-up
			if err := grant(r.name, "INSERT, ALTER DELETE", RollUps()); err != nil {
				return nil, err
			}
			for _, table := range RollUps() {
				add("GRANT%s CREATE TABLE, DROP TABLE, INSERT ON %s.%s* TO %s", l.onCluster(), identifier(database), table+stageMark, identifier(l.role(r.name)))
			}
		}
		if r.selects == nil {
			add("GRANT%s SELECT ON %s.* TO %s", l.onCluster(), identifier(database), identifier(l.role(r.name)))
		} else if err := grant(r.name, "SELECT", r.selects); err != nil {
			return nil, err
		}
	}
	if len(tenants) > 0 {
		if err := l.tenantRoles(database, tenants, create, grant, add); err != nil {
			return nil, err
		}
	}
	for _, name := range slices.Sorted(maps.Keys(passwords)) {
		if !known[name] {
			return nil, service.Configf("there is no role %q: the roles are %s", name, strings.Join(slices.Sorted(maps.Keys(known)), ", "))
		}
		hash, salt, err := hashed(passwords[name])
		if err != nil {
			return nil, err
		}
		user := identifier(name + "_user")
		add("CREATE USER IF NOT EXISTS %s%s IDENTIFIED WITH sha256_hash BY '%s' SALT '%s' DEFAULT ROLE %s", user, l.onCluster(), hash, salt, identifier(name))
		add("GRANT%s %s TO %s", l.onCluster(), identifier(name), user)
	}
	return list, nil
}

// tenantRoles gives each tenant the tables that know of tenants, and the views of nothing but
// those, with a row policy on each table. ClickHouse lets nobody see a table with policies whom none
// of them names: everybody else gets one that hides nothing.
func (l Layout) tenantRoles(database string, tenants []string, create func(string), grant func(string, string, []string) error, add func(string, ...any)) error {
	tables, views, err := tenantObjects()
	if err != nil {
		return err
	}
	create(tenantRole)
	policy := func(name, table, using, to string) error {
		names, err := l.both(table)
		if err != nil {
			return err
		}
		for _, t := range names {
			add("CREATE ROW POLICY IF NOT EXISTS %s%s ON %s.%s FOR SELECT USING %s TO %s", identifier(l.role(name)), l.onCluster(), identifier(database), identifier(t), using, to)
		}
		return nil
	}
	for _, table := range tables {
		if err := policy("everybody_else", table, "1", "ALL EXCEPT "+identifier(l.role(tenantRole))); err != nil {
			return err
		}
	}
	for _, tenant := range tenants {
		if tenant == "" || len(tenant) > 200 || strings.ContainsFunc(tenant, func(r rune) bool { return r < ' ' || r == 0x7f }) {
			return service.Configf("%q is no name of a tenant", tenant)
		}
		name := tenantRole + "_" + tenant
		create(name)
		add("GRANT%s %s TO %s", l.onCluster(), identifier(l.role(tenantRole)), identifier(l.role(name)))
		if err := grant(name, "SELECT", append(slices.Clone(tables), views...)); err != nil {
			return err
		}
		for _, table := range tables {
			if err := policy(name, table, "tenant = "+quote(tenant), identifier(l.role(name))); err != nil {
				return err
			}
		}
	}
	return nil
}

// both returns the names that a right on an object has to be given for: its own, and that of the
// local table behind it, which the other servers are asked for in the name of the same user.
func (l Layout) both(object string) ([]string, error) {
	local, err := l.local(object)
	if err != nil || local == object {
		return []string{object}, err
	}
	return []string{object, local}, nil
}

var (
	tenantColumn = regexp.MustCompile(`(?m)^    tenant (?:LowCardinality\()?String`)
	word         = regexp.MustCompile(`\w+`)
)

// tenantObjects returns the tables with a column tenant, and the views whose rows come from nothing
// else, sorted. Tables that only the jobs read are left out: there is nothing in them for tenants.
func tenantObjects() (tables, views []string, err error) {
	all, err := migrations()
	if err != nil {
		return nil, nil, err
	}
	known := map[string]bool{} // every table and view, true if for tenants
	for _, m := range all {
		for _, s := range statements(m.sql) {
			if t := createTable.FindStringSubmatch(s); t != nil {
				known[t[1]] = tenantColumn.MatchString(s) && !slices.Contains(jobTables, t[1])
				if known[t[1]] {
					tables = append(tables, t[1])
				}
			}
			if v := createView.FindStringSubmatch(s); v != nil {
				sources := 0
				known[v[1]] = true
				for _, name := range word.FindAllString(s[len(v[0]):], -1) {
					if is, ok := known[name]; ok && name != v[1] {
						sources++
						known[v[1]] = known[v[1]] && is
					}
				}
				known[v[1]] = known[v[1]] && sources > 0
				if known[v[1]] {
					views = append(views, v[1])
				}
			}
		}
	}
	slices.Sort(tables)
	slices.Sort(views)
	return tables, views, nil
}

// jobTables have a column tenant and concern operators only.
var jobTables = []string{"overrides", "suppressions", "k1m", "gauges", "queue_gauges"}

func identifier(name string) string {
	return "`" + strings.NewReplacer(`\`, `\\`, "`", "\\`").Replace(name) + "`"
}

// hashed returns what ClickHouse stores of a password, so that the SQL does not hold it.
func hashed(password string) (hash, salt string, err error) {
	if password == "" {
		return "", "", service.Configf("a password is empty")
	}
	b := make([]byte, 16)
	if _, err := rand.Read(b); err != nil {
		return "", "", fmt.Errorf("salt of a password: %w", err)
	}
	salt = hex.EncodeToString(b)
	sum := sha256.Sum256([]byte(password + salt))
	return hex.EncodeToString(sum[:]), salt, nil
}

const rolesAbout = `carom schema roles writes the SQL that makes carom's users on a ClickHouse server, each with the least
rights that its part needs. It connects to nothing; pipe it into clickhouse-client as an administrator.

  carom_ingest     the agents of the nodes, and imports
  carom_analytics  the jobs, and carom's commands that change limits and suppressions
  carom_grafana    people and dashboards: everything, read-only, bounded in time and memory
  carom_tenant_X   with --tenant X: read-only, and only the rows of tenant X

With --password-from ROLE=FILE a user ROLE_user is made as well, with the password in the first line
of FILE; the SQL holds a salted hash of it. The embedded engine has no users: carom clickhouse --help.

Example:
  carom schema roles --cluster main --password-from carom_ingest=/etc/carom/ingest.password |
    clickhouse-client --host ch1`

func rolesCommand(args []string, stdio service.IO) error {
	flags := service.NewFlags("schema roles", rolesAbout, stdio)
	rawURL, _ := Flags(flags)
	var layout Layout
	flags.StringVar(&layout.Cluster, "cluster", "", "`name` of the cluster that the schema was applied to")
	var tenants []string
	flags.Func("tenant", "`name` of a tenant to make a role for; may be given again", func(s string) error {
		tenants = append(tenants, s)
		return nil
	})
	passwords := Passwords{}
	flags.Func("password-from", "`ROLE=FILE`: make a user for the role; may be given again", func(s string) error {
		name, file, ok := strings.Cut(s, "=")
		if !ok {
			return fmt.Errorf("want ROLE=FILE")
		}
		password, err := firstLine(file)
		if err != nil {
			return err
		}
		passwords[name] = password
		return nil
	})
	if err := flags.Parse(args); err != nil {
		return err
	}
	if err := flags.NoArgs(); err != nil {
		return err
	}
	opt, err := parse(*rawURL, Options{})
	if err != nil {
		return err
	}
	return layout.Roles(stdio.Out, opt.Auth.Database, tenants, passwords)
}
