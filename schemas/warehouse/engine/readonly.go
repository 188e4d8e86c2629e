//go:build unix

package engine

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"carom/schemas/warehouse/engine/chdb"
	"carom/schemas/warehouse/engine/sqltext"
)

// A read-only user sends one SELECT, SHOW, DESCRIBE, EXISTS or EXPLAIN. The engine's own setting
// readonly does not keep such a user from the machine's files and network, so the front has the
// engine parse each statement (EXPLAIN AST) and checks what the tree names against these lists.
var (
	readonlyRoots = []string{
		"SelectWithUnionQuery", "Explain", "DescribeQuery", "ShowTables", "ShowColumns", "ShowIndexes", "ShowFunctions",
		"ShowCreateTableQuery", "ShowCreateViewQuery", "ShowCreateDatabaseQuery",
		"ExistsTableQuery", "ExistsViewQuery", "ExistsDatabaseQuery",
	}

	// Table functions that read nothing but their arguments.
	readonlyTableFunctions = []string{
		"numbers", "numbers_mt", "zeros", "zeros_mt", "generate_series", "generateSeries", "values", "null", "format", "view",
	}

	// Functions that read files, symbols or the outside world.
	forbiddenFunctions = []string{
		"file", "catboostevaluate", "addresstoline", "addresstolinewithinlines", "addresstosymbol", "demangle",
		"getmacro", "getserverport", "showcertificate", "hasthreadfuzzer", "trap",
	}

	// Tables of the engine that describe what may be queried.
	readonlySystemTables = []string{
		"system.columns", "system.databases", "system.tables", "system.parts", "system.functions", "system.formats",
		"system.data_type_families", "system.settings", "system.table_functions", "system.aggregate_function_combinators",
		"system.one", "system.numbers", "system.zeros", "system.build_options", "system.time_zones", "system.clusters",
		"system.dictionaries", "system.keywords", "system.completions", "system.table_engines",
	}

	// Settings that bound a query or shape its result.
	readonlySettings = []string{
		"max_execution_time", "timeout_before_checking_execution_speed", "max_result_rows", "max_result_bytes",
		"result_overflow_mode", "max_rows_to_read", "max_bytes_to_read", "read_overflow_mode", "max_rows_to_group_by",
		"group_by_overflow_mode", "max_threads", "max_block_size", "max_memory_usage", "max_bytes_before_external_group_by",
		"max_bytes_before_external_sort", "join_use_nulls", "joined_subquery_requires_alias", "limit", "offset", "extremes",
		"totals_mode", "prefer_column_name_to_alias", "group_by_use_nulls", "aggregate_functions_null_for_empty",
		"transform_null_in", "log_comment", "priority", "session_timezone", "use_query_cache", "date_time_output_format",
		"final", "optimize_read_in_order", "async_insert", "wait_for_async_insert", "enable_analyzer",
		"bool_true_representation", "bool_false_representation", "query_plan_optimize_lazy_materialization",
		"enable_shared_storage_snapshot_in_query",
	}
	readonlySettingPrefixes = []string{"output_format_", "format_csv_"}
)

func allowedSetting(name string) bool {
	return slices.Contains(readonlySettings, name) ||
		slices.ContainsFunc(readonlySettingPrefixes, func(p string) bool { return strings.HasPrefix(name, p) })
}

// asksReadonly reports whether q's URL sets readonly: then it is held to what a read-only user may do,
// whoever sent it, as a server would do.
func (q *request) asksReadonly() bool {
	return slices.ContainsFunc(q.settings, func(s sqltext.Setting) bool { return s.Name == "readonly" && s.Value != "0" })
}

// restrict checks q, a request of a read-only user, and replaces its statement by the form in
// which it was checked. The error is a *chdb.Error, as an engine that knew the user would give it.
func (s *Server) restrict(ctx context.Context, q *request) error {
	switch q.statement.Kind {
	case sqltext.Select, sqltext.Info:
	default:
		return exception(readonlyMode, q.user.name+": Cannot execute query in readonly mode.")
	}
	if q.database == "system" {
		return exception(accessDenied, q.user.name+": Not enough privileges: the database system is read by qualified names.")
	}
	return s.onControl(ctx, q, func(conn *chdb.Conn) error {
		// What is checked and run is the statement as the engine writes it: one statement, no
		// comments, one way of quoting.
		sql, err := fetch(conn, "SELECT formatQuerySingleLine({statement:String})",
			chdb.Param{Name: "statement", Value: escapeParam(q.statement.Text)})
		if err != nil {
			return err
		}
		statement, err := parseStatement(strings.TrimSuffix(sql, "\n"))
		if err != nil {
			return err
		}
		tree, err := fetch(conn, "EXPLAIN AST "+statement.Text, q.params...)
		if err != nil {
			return err
		}
		sets, err := checkTree(tree)
		if err != nil {
			return exception(accessDenied, q.user.name+": Not enough privileges: "+err.Error())
		}
		if err := q.restrictSettings(statement, sets); err != nil || q.user.tenant == "" {
			return err
		}
		return s.restrictTenant(conn, q, tree)
	})
}

// restrictSettings checks the settings of the URL and of statement, which then is q's. The tree
// has sets SETTINGS clauses; finding another number means that one was misread.
func (q *request) restrictSettings(statement *sqltext.Statement, sets int) error {
	names, clauses := sqltext.SettingNames(statement.Text)
	if clauses != sets {
		return exception(readonlyMode, "Cannot tell which settings the query modifies, which is not allowed in readonly mode.")
	}
	q.settings = slices.DeleteFunc(q.settings, func(s sqltext.Setting) bool {
		return s.Name == "readonly" && (s.Value == "1" || s.Value == "2") // it is so already
	})
	for _, setting := range q.settings {
		names = append(names, setting.Name)
	}
	for _, name := range names {
		if !allowedSetting(name) || q.user.tenant != "" && slices.Contains(tenantForbiddenSettings, name) {
			return exception(readonlyMode, fmt.Sprintf("Cannot modify '%s' setting in readonly mode.", name))
		}
	}
	q.settings = append(q.settings,
		sqltext.Setting{Name: "readonly", Value: "2"}, sqltext.Setting{Name: "allow_introspection_functions", Value: "0"})
	q.statement = statement
	return nil
}

// checkTree looks at each line of an EXPLAIN AST and returns how many SETTINGS clauses it has.
func checkTree(tree string) (sets int, err error) {
	lines := strings.Split(strings.TrimSuffix(tree, "\n"), "\n")
	if root := kindOf(lines[0]); !slices.Contains(readonlyRoots, root) {
		return 0, fmt.Errorf("a read-only user cannot run a %s", root)
	}
	if kindOf(lines[0]) == "Explain" && (len(lines) < 2 || kindOf(lines[1]) != "SelectWithUnionQuery") {
		return 0, fmt.Errorf("a read-only user can EXPLAIN a SELECT only")
	}
	for i, line := range lines {
		kind, name := kindOf(line), nameOf(line)
		switch {
		case kind == "Set":
			sets++
		case kind == "Function" && i > 0 && kindOf(lines[i-1]) == "TableExpression":
			if !slices.Contains(readonlyTableFunctions, name) {
				return 0, fmt.Errorf("a read-only user cannot use the table function %s", name)
			}
		case kind == "Function" && slices.Contains(forbiddenFunctions, strings.ToLower(name)):
			return 0, fmt.Errorf("a read-only user cannot use the function %s", name)
		case (kind == "TableIdentifier" || kind == "Identifier") && strings.HasPrefix(name, "system.") &&
			!slices.Contains(readonlySystemTables, name):
			return 0, fmt.Errorf("a read-only user cannot read %s", name)
		}
	}
	return sets, nil
}

// kindOf and nameOf take a line apart: "   Function file (alias x) (children 1)".
func kindOf(line string) string {
	kind, _, _ := strings.Cut(strings.TrimLeft(line, " "), " ")
	return kind
}

func nameOf(line string) string {
	_, rest, _ := strings.Cut(strings.TrimLeft(line, " "), " ")
	name, _, _ := strings.Cut(rest, " (")
	return name
}

// fetch runs sql and returns its one column of text.
func fetch(conn *chdb.Conn, sql string, params ...chdb.Param) (string, error) {
	result, err := conn.Query(sql, "TSVRaw", params...)
	if err != nil {
		return "", err
	}
	defer result.Close()
	return string(result.Bytes()), nil
}

var paramEscaper = strings.NewReplacer(`\`, `\\`, "\t", `\t`, "\n", `\n`, "\r", `\r`, "\x00", `\0`)

// escapeParam returns s in the text form of a parameter's value.
func escapeParam(s string) string { return paramEscaper.Replace(s) }

func containsFold(list []string, s string) bool {
	return slices.ContainsFunc(list, func(e string) bool { return strings.EqualFold(e, s) })
}
