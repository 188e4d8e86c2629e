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
	"unicode"

	"carom/schemas/service"
)

// A role is what one part of carom may do on a server.
type role struct {
	name    string
	inserts []string // tables
	selects []string // tables and views; nil for all of the database
	rollsUp bool     // computes roll-ups (RollUp, Rebuild) in tables that it makes for the time
}

// roles are held to what the code says by a test: a part that begins to write or read a table needs
// it here.
var roles = []role{
	{ // the agents of the nodes
		name:    ingestRole,
		inserts: []string{"annotations", "events", "gauges", "nodes", "queue_gauges"},
		selects: []string{
			"annotations", "events", "gauges", "queue_gauges", // what of the last batch is stored
			"leases", "schema_migrations", "suppression_changes", "suppressions",
		},
	},
	{ // carom import: rows of the past, whose roll-ups are computed afterwards
		name:    importRole,
		inserts: []string{"events", "imports"},
		selects: []string{"events", "imports", "schema_migrations"},
		rollsUp: true,
	},
	{ // the jobs, and carom's commands that change limits and suppressions
		name: analyticsRole,
		inserts: []string{
			"annotations", "attributions", "completeness_ledger", "holds", "job_runs", "leases", "limit_log", "limit_outcomes", "limit_state", "overrides",
			"reputation", "soft_bounces", "suppression_waves", "suppressions", "webhook_deliveries",
		},
		rollsUp: true,
	},
	{name: grafanaRole}, // people and dashboards: everything, read-only, within bounds
}

const defaultRolePrefix = "carom_"

// The roles' names without their prefix. tenantRole is the parent of the roles of tenants.
const (
	ingestRole    = "ingest"
	importRole    = "import"
	analyticsRole = "analytics"
	grafanaRole   = "grafana"
	tenantRole    = "tenant"
)

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
	case (role == ingestRole || role == importRole) && l.Cluster != "":
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
	sharded, err := shardedTables()
	if err != nil {
		return err
	}
	if l.Cluster == "" {
		sharded = nil
	}
	s := &rolesScript{Layout: l, database: database, sharded: sharded, roles: map[string]bool{}}
	for _, r := range roles {
		s.role(r)
	}
	if len(tenants) > 0 {
		if err := s.tenants(tenants); err != nil {
			return err
		}
	}
	if err := s.users(passwords); err != nil {
		return err
	}
	if _, err := io.WriteString(w, strings.Join(s.statements, ";\n")+";\n"); err != nil {
		return fmt.Errorf("print roles: %w", err)
	}
	return nil
}

// rolesScript collects the statements of Roles.
type rolesScript struct {
	Layout

	database   string
	sharded    map[string]bool // tables with a local one behind them
	statements []string
	roles      map[string]bool // full names of those that were created
}

func (s *rolesScript) add(format string, args ...any) {
	s.statements = append(s.statements, fmt.Sprintf(format, args...))
}

// name returns the quoted full name of a role, profile or policy.
func (s *rolesScript) name(short string) string { return identifier(s.fullName(short)) }

func (s *rolesScript) fullName(short string) string {
	return cmp.Or(s.RolePrefix, defaultRolePrefix) + short
}

// create makes a role with its settings.
func (s *rolesScript) create(role string) {
	s.roles[s.fullName(role)] = true
	s.add("CREATE ROLE IF NOT EXISTS %s%s", s.name(role), s.onCluster())
	if settings := s.roleSettings(role); len(settings) > 0 {
		s.add("CREATE SETTINGS PROFILE IF NOT EXISTS %s%s SETTINGS %s TO %s", s.name(role), s.onCluster(), strings.Join(settings, ", "), s.name(role))
	}
}

// both returns the quoted names that a right on an object has to be given for: its own, and that of
// the local table behind it, which the other servers are asked for in the name of the same user.
func (s *rolesScript) both(object string) []string {
	names := []string{s.object(object)}
	if local := localName(object, s.sharded); local != object {
		names = append(names, s.object(local))
	}
	return names
}

func (s *rolesScript) object(name string) string {
	return identifier(s.database) + "." + identifier(name)
}

// grant gives a role a right on objects.
func (s *rolesScript) grant(right, role string, objects []string) {
	for _, object := range objects {
		for _, name := range s.both(object) {
			s.add("GRANT%s %s ON %s TO %s", s.onCluster(), right, name, s.name(role))
		}
	}
}

func (s *rolesScript) role(r role) {
	s.create(r.name)
	s.grant("INSERT", r.name, r.inserts)
	if r.selects == nil {
		s.add("GRANT%s SELECT ON %s.* TO %s", s.onCluster(), identifier(s.database), s.name(r.name))
	}
	s.grant("SELECT", r.name, r.selects)
	if r.rollsUp {
		s.grant("SELECT, INSERT, ALTER DELETE", r.name, RollUps())
		for _, table := range RollUps() {
			s.add("GRANT%s CREATE TABLE, DROP TABLE, SELECT, INSERT ON %s* TO %s", s.onCluster(), s.object(table+stageMark), s.name(r.name))
		}
		s.add("GRANT%s SELECT ON system.parts TO %s", s.onCluster(), s.name(r.name)) // which partitions it made
	}
}

// tenants gives each tenant the tables that know of tenants, and the views of nothing but those,
// with a row policy on each table. Everybody else gets a policy that hides nothing, because a server
// may be set to hide a table with policies from whom none of them names.
func (s *rolesScript) tenants(tenants []string) error {
	tables, views, err := TenantObjects()
	if err != nil {
		return err
	}
	s.create(tenantRole)
	s.policy("everybody_else", tables, "1", "ALL EXCEPT "+s.name(tenantRole))
	for _, tenant := range tenants {
		if err := CheckTenant(tenant); err != nil {
			return err
		}
		role := tenantRole + "_" + tenant
		s.create(role)
		s.add("GRANT%s %s TO %s", s.onCluster(), s.name(tenantRole), s.name(role))
		s.grant("SELECT", role, slices.Concat(tables, views))
		s.policy(role, tables, "tenant = "+quote(tenant), s.name(role))
	}
	return nil
}

// TenantUser returns the name of a tenant's user, which is that of the role with the usual prefix.
func TenantUser(tenant string) string { return defaultRolePrefix + tenantRole + "_" + tenant }

// CheckTenant returns an error if a tenant with a user of its own cannot have this name.
func CheckTenant(name string) error {
	if name == "" || len(name) > 200 || strings.ContainsFunc(name, unicode.IsControl) {
		return service.Configf("%q is no name of a tenant", name)
	}
	return nil
}

// policy lets those named by to see the rows of tables for which condition holds.
func (s *rolesScript) policy(name string, tables []string, condition, to string) {
	for _, table := range tables {
		for _, object := range s.both(table) {
			s.add("CREATE ROW POLICY IF NOT EXISTS %s%s ON %s FOR SELECT USING %s TO %s", s.name(name), s.onCluster(), object, condition, to)
		}
	}
}

// users makes the users whose passwords are given.
func (s *rolesScript) users(passwords Passwords) error {
	for _, role := range slices.Sorted(maps.Keys(passwords)) {
		if !s.roles[role] {
			return service.Configf("there is no role %q: the roles are %s", role, strings.Join(slices.Sorted(maps.Keys(s.roles)), ", "))
		}
		hash, salt, err := hashed(passwords[role])
		if err != nil {
			return err
		}
		user := identifier(role + "_user")
		s.add("CREATE USER IF NOT EXISTS %s%s IDENTIFIED WITH sha256_hash BY '%s' SALT '%s' DEFAULT ROLE %s", user, s.onCluster(), hash, salt, identifier(role))
		s.add("GRANT%s %s TO %s", s.onCluster(), identifier(role), user)
	}
	return nil
}

var tenantColumn = regexp.MustCompile(`(?m)^    tenant (?:LowCardinality\()?String`)

// TenantObjects returns the tables with a column tenant, and the views whose rows come from nothing
// else, sorted. Tables that only the jobs read are left out: there is nothing in them for tenants.
func TenantObjects() (tables, views []string, err error) {
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
				_, query, _ := strings.Cut(s, "\nAS ")
				for _, from := range readTable.FindAllStringSubmatch(query, -1) {
					if is, ok := known[from[3]]; ok {
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
var jobTables = []string{"holds", "k1h", "suppressions", "k1m", "gauges", "queue_gauges"}

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

  carom_ingest     the agents of the nodes
  carom_import     carom import
  carom_analytics  the jobs, and carom's commands that change limits and suppressions
  carom_grafana    people and dashboards: everything, read-only, bounded in time and memory
  carom_tenant_X   with --tenant X: read-only, and only the rows of tenant X

With --password-from ROLE=FILE a user ROLE_user is made as well, with the password in the first line
of FILE; the SQL holds a salted hash of it. The embedded engine has users of its own: see
carom clickhouse --help.

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
		password, err := FirstLine(file)
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
