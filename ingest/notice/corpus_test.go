package notice

import (
	"bufio"
	"encoding/json"
	"maps"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"carom/ingest/dsn"
	"carom/ingest/mime"
)

// corpora is where the labelled reports are, which are no part of the repository.
const corpora = "../../../shared/corpora"

// labelled is a line of expected.jsonl.
type labelled struct {
	File       string `json:"file"`
	Kind       string `json:"kind"`
	DupOf      string `json:"dup_of"`
	Recipients []struct {
		Recipient string   `json:"recipient"`
		Others    []string `json:"recipient_alt"`
		Status    string   `json:"status"`
	} `json:"recipients"`
}

// family returns the product whose notice a file is, by its name: "exim" of "lhost-exim-01.eml".
func (l *labelled) family() string {
	name, ok := strings.CutPrefix(path.Base(l.File), "lhost-")
	if !ok {
		return ""
	}
	name, _, _ = strings.Cut(name, "-")
	return name
}

func expected(t *testing.T) []labelled {
	t.Helper()
	file, err := os.Open(filepath.Join(corpora, "expected.jsonl"))
	if err != nil {
		t.Skip("needs the labelled corpora beside the repository:", err)
	}
	defer file.Close()
	var all []labelled
	lines := bufio.NewScanner(file)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		var l labelled
		if err := json.Unmarshal(lines.Bytes(), &l); err != nil {
			t.Fatal(err)
		}
		if l.DupOf == "" {
			all = append(all, l)
		}
	}
	if err := lines.Err(); err != nil {
		t.Fatal(err)
	}
	return all
}

// tally counts how a family fares.
type tally struct{ files, detected, recipients, found int }

// TestCorpusWithoutTheFamily reads the notices of each product by the rules that are left when those
// of the product are taken away, as the notices of a product that nobody knows.
func TestCorpusWithoutTheFamily(t *testing.T) {
	all := expected(t)
	families := map[string][]labelled{}
	for _, l := range all {
		if f := l.family(); f != "" && f != "amazonses" && l.Kind == "dsn" {
			families[f] = append(families[f], l)
		}
	}
	names := slices.Sorted(maps.Keys(families))
	var whole, without tally
	for _, name := range names {
		rest, err := newRuleSet(rulesText, []string{name})
		if err != nil {
			t.Fatal(err)
		}
		with, left := count(t, builtin(), families[name]), count(t, rest, families[name])
		t.Logf("%-18s %2d text-only files, %2d recipients: with its rules %d, %d; without %d, %d",
			name, with.files, with.recipients, with.detected, with.found, left.detected, left.found)
		whole.add(with)
		without.add(left)
	}
	t.Logf("all: %d files, %d recipients: with rules %d, %d; without %d, %d",
		whole.files, whole.recipients, whole.detected, whole.found, without.detected, without.found)
	if whole.detected*100 < whole.files*99 || whole.found*100 < whole.recipients*97 {
		t.Errorf("with all rules: %+v", whole)
	}
	if without.detected*100 < without.files*95 || without.found*100 < without.recipients*93 {
		t.Errorf("without the family's rules: %+v", without)
	}
}

func (t *tally) add(other tally) {
	t.files += other.files
	t.detected += other.detected
	t.recipients += other.recipients
	t.found += other.found
}

// count reads the files that have no machine part.
func count(t *testing.T, set *ruleSet, files []labelled) (sum tally) {
	t.Helper()
	for _, l := range files {
		data, err := os.ReadFile(filepath.Join(corpora, "files", l.File))
		if err != nil {
			t.Fatal(err)
		}
		m, err := mime.Parse(data, mime.Limits{})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := dsn.Parse(m); err == nil {
			continue
		}
		sum.files++
		r, err := set.parse(m, 0)
		if err == nil {
			sum.detected++
		}
		for _, want := range l.Recipients {
			if want.Recipient == "" {
				continue
			}
			sum.recipients++
			if r == nil {
				continue
			}
			if slices.ContainsFunc(r.Recipients, func(got dsn.Recipient) bool {
				return strings.EqualFold(got.Final, want.Recipient) || slices.ContainsFunc(want.Others, func(o string) bool { return strings.EqualFold(o, got.Final) })
			}) {
				sum.found++
			} else {
				t.Logf("%s: want %s, got %v", l.File, want.Recipient, r.Recipients[0].Final)
			}
		}
	}
	return sum
}
