package e2e

import (
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/ClickHouse/clickhouse-go/v2"

	"carom/schemas/warehouse/chtest"
)

var root = filepath.Join("..", "..")

// TestReadme holds README.md to what there is: each command that it shows, in a console block
// after "$ " or in a line of text between backquotes, has its subcommand, flags or target, and
// each document that it points to exists.
func TestReadme(t *testing.T) {
	readme := readText(t, "README.md")
	makefile := readText(t, "Makefile")
	names := subcommands(t)
	seen := map[string]bool{}
	for _, command := range commandsIn(readme) {
		words := strings.Fields(command)
		switch filepath.Base(words[0]) {
		case "carom":
			seen["carom"] = true
			checkCarom(t, names, command, words[1:])
		case "make":
			seen["make"] = true
			checkMake(t, makefile, command, words[1:])
		}
	}
	if !seen["carom"] || !seen["make"] {
		t.Errorf("found no carom or no make command in README.md: %v", seen)
	}
	for _, link := range regexp.MustCompile(`\]\(([^)#:]+)\)`).FindAllStringSubmatch(readme, -1) {
		if _, err := os.Stat(filepath.Join(root, link[1])); err != nil {
			t.Errorf("README.md points to %s: %v", link[1], err)
		}
	}
}

// TestDocumentsSQL runs each statement that README.md and the documents show, in sql blocks and
// after curl, on tables as carom schema makes them.
func TestDocumentsSQL(t *testing.T) {
	server := chtest.Start(t)
	if _, stderr, status := run(t, t.TempDir(), "schema", "apply", "--url", server.URL()+"/carom"); status != 0 {
		t.Fatalf("carom schema apply: exit status %d\n%s", status, stderr)
	}
	conn := server.Conn(t, func(o *clickhouse.Options) { o.Auth.Database = "carom" })
	documents, err := filepath.Glob(filepath.Join(root, "deploy", "docs", "*.md"))
	if err != nil || len(documents) == 0 {
		t.Fatalf("documents: %q, %v", documents, err)
	}
	count := 0
	for _, file := range append(documents, filepath.Join(root, "README.md")) {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		for _, statement := range statementsIn(string(text)) {
			count++
			rows, err := conn.Query(clickhouse.Context(t.Context(), clickhouse.WithParameters(clickhouse.Parameters{
				"from": "2026-11-22 00:00:00", "to": "2026-11-29 00:00:00", "recipient": "a@example.com",
			})), statement)
			if err != nil {
				t.Errorf("%s shows %q: %v", file, statement, err)
				continue
			}
			_ = rows.Close()
		}
	}
	if count < 5 {
		t.Errorf("found only %d statements", count)
	}
}

var (
	sqlBlock = regexp.MustCompile("(?s)```sql\n(.*?)```")
	curlBody = regexp.MustCompile(`curl .* (?:-d|--data) "([^"]+)"`)
	format   = regexp.MustCompile(` FORMAT \w+$`) // the client asks for a format of its own
)

// statementsIn returns the SQL that a Markdown text shows.
func statementsIn(text string) (list []string) {
	for _, block := range sqlBlock.FindAllStringSubmatch(text, -1) {
		for statement := range strings.SplitSeq(block[1], ";") {
			if statement = strings.TrimSpace(statement); statement != "" {
				list = append(list, statement)
			}
		}
	}
	for _, body := range curlBody.FindAllStringSubmatch(text, -1) {
		list = append(list, format.ReplaceAllString(body[1], ""))
	}
	return list
}

func readText(t *testing.T, name string) string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(root, name))
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// inline is a command between backquotes.
var inline = regexp.MustCompile("`((?:\\./build/)?carom [^`]+|make [^`]+)`")

// commandsIn returns the commands that a Markdown text shows.
func commandsIn(text string) []string {
	var list []string
	block := "" // the word after the fence, inside a block
	for line := range strings.Lines(text) {
		line = strings.TrimSpace(line)
		word, fence := strings.CutPrefix(line, "```")
		switch {
		case fence && block == "":
			block = word + "-"
		case fence:
			block = ""
		case block == "console-":
			if command, ok := strings.CutPrefix(line, "$ "); ok {
				list = append(list, command)
			}
		case block == "":
			for _, match := range inline.FindAllStringSubmatch(line, -1) {
				list = append(list, match[1])
			}
		}
	}
	return list
}

// subcommands returns the names that carom help lists.
func subcommands(t *testing.T) []string {
	t.Helper()
	out, _, status := run(t, t.TempDir(), "help")
	if status != 0 {
		t.Fatalf("carom help: exit status %d", status)
	}
	lines := regexp.MustCompile(`(?m)^  (\S+(?: \S+)?)  +\S`).FindAllStringSubmatch(out, -1)
	names := make([]string, 0, len(lines))
	for _, match := range lines {
		names = append(names, match[1])
	}
	if len(names) < 10 {
		t.Fatalf("carom help lists only %q", names)
	}
	return names
}

// checkCarom looks up the flags of a command in its --help.
func checkCarom(t *testing.T, names []string, command string, words []string) {
	t.Helper()
	if slices.Contains(words, "help") || slices.Contains(words, "version") {
		return
	}
	var name []string
	for n := min(2, len(words)); n > 0 && name == nil; n-- {
		if slices.Contains(names, strings.Join(words[:n], " ")) {
			name = words[:n]
		}
	}
	if name == nil {
		t.Errorf("README.md shows %q: carom help lists no such subcommand", command)
		return
	}
	// "load mail" is a command with flags of its own, though not listed; so may be any second word.
	args := slices.Clone(name)
	if len(words) > len(name) && regexp.MustCompile(`^[a-z]+$`).MatchString(words[len(name)]) {
		args = append(args, words[len(name)])
	}
	help, _, status := run(t, t.TempDir(), append(args, "--help")...)
	if status != 0 || !strings.Contains(help, "Flags:") {
		t.Errorf("README.md shows %q: carom %s --help gives exit status %d and\n%s", command, strings.Join(args, " "), status, help)
		return
	}
	for _, word := range words[len(name):] {
		if flag, ok := strings.CutPrefix(word, "-"); ok {
			flag, _, _ = strings.Cut(strings.TrimPrefix(flag, "-"), "=")
			if !regexp.MustCompile(`(?m)^\s+--?` + regexp.QuoteMeta(flag) + `\b`).MatchString(help) {
				t.Errorf("README.md shows %q: carom %s has no flag %s", command, strings.Join(args, " "), word)
			}
		}
	}
}

// checkMake looks up targets and variables of a command in the Makefile.
func checkMake(t *testing.T, makefile, command string, words []string) {
	t.Helper()
	for _, word := range words {
		if name, _, ok := strings.Cut(word, "="); ok {
			if !strings.Contains(makefile, "$("+name+")") {
				t.Errorf("README.md shows %q: the Makefile has no variable %s", command, name)
			}
		} else if !regexp.MustCompile(`(?m)^` + regexp.QuoteMeta(word) + `:`).MatchString(makefile) {
			t.Errorf("README.md shows %q: the Makefile has no target %s", command, word)
		}
	}
}
