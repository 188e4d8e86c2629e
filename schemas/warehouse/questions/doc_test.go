package questions_test

import (
	"flag"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/ClickHouse/clickhouse-go/v2/lib/driver"
	"github.com/google/go-cmp/cmp"

	"carom/schemas/warehouse"
	"carom/schemas/warehouse/questions"
)

const document = "../../../deploy/docs/sql.md"

// views are those for people, in the order of the document.
var views = []string{
	"deliveries", "bounces", "deferrals", "complaints", "message_trace",
	"traffic_minute", "traffic_hour", "traffic_day", "job_day", "domain_day", "sender_day", "cohort_day", "returned_day", "latency_day",
	"job_report", "tenant_week", "ip_day", "time_to_deliver",
}

var update = flag.Bool("update", false, "write the generated parts of deploy/docs/sql.md")

// TestDocument compares the parts of sql.md that stand between "<!-- generated: NAME -->" and
// "<!-- end: NAME -->" with the schema, the rates and the questions.
func TestDocument(t *testing.T) {
	conn := migrated(t)
	content, err := os.ReadFile(document)
	if err != nil {
		t.Fatal(err)
	}
	got := string(content)
	for _, part := range []struct{ name, text string }{
		{"rates", rates()},
		{"views", dictionary(t, conn, func(name string) bool { return slices.Contains(views, name) })},
		{"questions", listing(questions.All())},
		{"analyst", listing(questions.Analyst())},
		{"tables", dictionary(t, conn, func(name string) bool { return !slices.Contains(views, name) })},
	} {
		got = replace(t, got, part.name, part.text)
	}
	if *update {
		if err := os.WriteFile(document, []byte(got), 0o644); err != nil { //nolint:gosec // a document
			t.Fatal(err)
		}
		return
	}
	if diff := cmp.Diff(string(content), got); diff != "" {
		t.Errorf("%s is behind; write it with\n  go test ./schemas/warehouse/questions -run TestDocument -update\n(-file +generated):\n%s", document, diff)
	}
}

// replace puts text in place of what is between the marks of a part.
func replace(t *testing.T, document, name, text string) string {
	t.Helper()
	before, rest, ok := strings.Cut(document, "<!-- generated: "+name+" -->\n")
	_, after, ended := strings.Cut(rest, "<!-- end: "+name+" -->\n")
	if !ok || !ended {
		t.Fatalf("there are no marks for the part %s", name)
	}
	return before + "<!-- generated: " + name + " -->\n" + text + "<!-- end: " + name + " -->\n" + after
}

// rates returns the definitions.
func rates() string {
	var b strings.Builder
	list := func(view string, rates []warehouse.Rate) {
		b.WriteString("| rate | of | what it is | SQL |\n| --- | --- | --- | --- |\n")
		for _, r := range rates {
			fmt.Fprintf(&b, "| **%s** | `%s` / `%s` | %s | `%s` |\n", r.Title, r.Numerator, r.Denominator, r.Words, r.SQL("t"))
		}
		fmt.Fprintf(&b, "\nwith `t` a view of sums: %s.\n\n", view)
	}
	list("`traffic_minute`, `traffic_hour`, `traffic_day`, `job_day`, `domain_day` or `sender_day`", warehouse.Rates)
	list("`cohort_day`", warehouse.ReportRates)
	b.WriteString("| measure | what is counted |\n| --- | --- |\n")
	for _, m := range slices.Concat(warehouse.Measures, warehouse.Volumes) {
		fmt.Fprintf(&b, "| `%s` | %s |\n", m.Name, m.Comment)
	}
	return b.String()
}

// listing returns the questions with their SQL.
func listing(all []questions.Question) string {
	var b strings.Builder
	for i, q := range all {
		fmt.Fprintf(&b, "%d. **%s** (`%s`", i+1, q.Title, q.ID)
		if q.Dashboard {
			b.WriteString(", dashboard")
		}
		b.WriteString(")\n\n   ```sql\n")
		for line := range strings.Lines(q.SQL) {
			b.WriteString("   " + line)
		}
		b.WriteString("\n   ```\n\n")
	}
	return b.String()
}

// dictionary returns the tables and views that are wanted, with their columns: those for people in
// their order, the others by name.
func dictionary(t *testing.T, conn driver.Conn, wanted func(string) bool) string {
	t.Helper()
	rows, err := conn.Query(t.Context(), `SELECT t.name, t.comment, groupArray(c.name), groupArray(c.type), groupArray(c.comment)
FROM (SELECT table, name, type, comment FROM system.columns WHERE database = currentDatabase() ORDER BY table, position) AS c
INNER JOIN (SELECT name, comment FROM system.tables WHERE database = currentDatabase() AND engine != 'MaterializedView') AS t ON t.name = c.table
GROUP BY t.name, t.comment
ORDER BY indexOf(?, t.name), t.name`, views)
	if err != nil {
		t.Fatal(err)
	}
	defer rows.Close()
	var all []string
	for rows.Next() {
		var table, about string
		var names, kinds, comments []string
		if err := rows.Scan(&table, &about, &names, &kinds, &comments); err != nil {
			t.Fatal(err)
		}
		if wanted(table) {
			all = append(all, describe(table, about, names, kinds, comments))
		}
	}
	if err := rows.Err(); err != nil {
		t.Fatal(err)
	}
	return strings.Join(all, "\n")
}

// describe returns a table with its columns. The measures and rates of a view, which stand at the
// top of the document, are one row.
func describe(table, about string, names, kinds, comments []string) string {
	var b strings.Builder
	fmt.Fprintf(&b, "### %s\n\n%s.\n\n| column | type | meaning |\n| --- | --- | --- |\n", table, strings.TrimSuffix(about, "."))
	shared := map[string]string{}
	for _, m := range warehouse.Measures {
		shared[m.Name] = "the measures"
	}
	for _, r := range warehouse.Rates {
		shared[r.Name] = "the rates"
	}
	last := ""
	hasAll := slices.Contains(names, warehouse.Measures[0].Name) && slices.Contains(names, warehouse.Measures[len(warehouse.Measures)-1].Name)
	for i, name := range names {
		what := shared[name]
		switch {
		case !hasAll || what == "":
			fmt.Fprintf(&b, "| `%s` | `%s` | %s |\n", name, kinds[i], strings.ReplaceAll(comments[i], "|", `\|`))
		case what != last:
			fmt.Fprintf(&b, "| %s | | as at the top of this page |\n", what)
		}
		last = what
	}
	return b.String()
}
