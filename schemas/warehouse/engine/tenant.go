//go:build unix

package engine

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"

	"carom/schemas/warehouse/engine/chdb"
	"carom/schemas/warehouse/engine/sqltext"
)

var (
	// Functions that read a table or dictionary named by a string, past the engine's filters.
	tenantForbiddenFunctions = []string{"dictget", "dicthas", "dictis", "joinget"} // their beginnings

	// Settings under which other code applies the filters, or a result may be another user's.
	tenantForbiddenSettings = []string{"enable_analyzer", "use_query_cache"}
)

// restrictTenant keeps q, a restricted request of a tenant's user, to the tenant's rows. The engine
// itself filters every table that it reads, wherever the statement or a view names it: those for
// tenants by the tenant, all others to nothing. That a statement names one of those is an error, so
// that nobody takes the nothing for an answer.
//
// As on a server with row policies, the names, comments and sizes of the tables for tenants are no secret.
func (s *Server) restrictTenant(conn *chdb.Conn, q *request, tree string) error {
	tables, err := tablesOf(conn)
	if err != nil {
		return err
	}
	seen := make([]string, 0, len(s.tenantTables)+len(s.tenantViews))
	for _, name := range slices.Concat(s.tenantTables, s.tenantViews) {
		seen = append(seen, sqltext.Quote(name))
	}
	in := " IN (" + strings.Join(seen, ", ") + ")"
	filters := []string{"'system.tables': " + sqltext.Quote("name"+in), "'system.columns': " + sqltext.Quote("table"+in)}
	closed := map[string]bool{} // what tenants may not read, with its database
	for _, t := range tables {
		full, filter := t.database+"."+t.name, "0"
		switch {
		case slices.Contains(s.tenantTables, t.name):
			filter = "tenant = " + sqltext.Quote(q.user.tenant)
		case slices.Contains(s.tenantViews, t.name):
			continue // its tables are filtered
		default:
			closed[full] = true
		}
		filters = append(filters, sqltext.Quote(full)+": "+sqltext.Quote(filter))
	}
	if err := checkTenantTree(tree, q.database, closed); err != nil {
		return exception(accessDenied, q.user.name+": Not enough privileges: "+err.Error())
	}
	q.settings = append(q.settings,
		sqltext.Setting{Name: "additional_table_filters", Value: "{" + strings.Join(filters, ", ") + "}"},
		sqltext.Setting{Name: "enable_analyzer", Value: "1"}, sqltext.Setting{Name: "use_query_cache", Value: "0"})
	return nil
}

type tableName struct{ database, name string }

// tablesOf returns the tables and views of every database but the engine's own.
func tablesOf(conn *chdb.Conn) (tables []tableName, err error) {
	result, err := conn.Query("SELECT database, name FROM system.tables WHERE database NOT IN ('system', 'INFORMATION_SCHEMA', 'information_schema')", "JSONCompactEachRow")
	if err != nil {
		return nil, err
	}
	defer result.Close()
	rows := json.NewDecoder(bytes.NewReader(result.Bytes()))
	for rows.More() {
		var row [2]string
		if err := rows.Decode(&row); err != nil {
			return nil, fmt.Errorf("read the names of the tables: %w", err)
		}
		tables = append(tables, tableName{row[0], row[1]})
	}
	return tables, nil
}

// checkTenantTree looks at each line of an EXPLAIN AST that checkTree has passed.
func checkTenantTree(tree, database string, closed map[string]bool) error {
	for i, line := range strings.Split(tree, "\n") {
		kind, name := kindOf(line), nameOf(line)
		full := name
		if !strings.Contains(name, ".") {
			full = database + "." + name
		}
		switch {
		case i == 0 && kind == "Explain":
			return errors.New("a tenant's user cannot EXPLAIN")
		case kind == "Function" && slices.ContainsFunc(tenantForbiddenFunctions, func(p string) bool { return strings.HasPrefix(strings.ToLower(name), p) }):
			return fmt.Errorf("a tenant's user cannot use the function %s", name)
		case (kind == "TableIdentifier" || kind == "Identifier") && name == "system.parts": // which counts everybody's rows
			return fmt.Errorf("a tenant's user cannot read %s", name)
		case strings.Contains(line, "(alias system."): // the engine takes an alias for the name that a filter is for
			return errors.New("a tenant's user cannot call something system")
		case kind == "TableIdentifier" && closed[full]:
			return fmt.Errorf("%s has no rows of tenants", name)
		}
	}
	return nil
}
