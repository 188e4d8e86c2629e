package arf

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/tools/txtar"

	"carom/ingest/mime"
)

// TestRules reads the messages of each rule: it, and no rule before it, must fit those called yes.
func TestRules(t *testing.T) {
	files := map[string]bool{}
	for _, r := range builtin() {
		name := filepath.Join("testdata", "rules", r.id+".txtar")
		files[name] = true
		archive, err := txtar.ParseFile(name)
		if err != nil {
			t.Fatal(err)
		}
		count := map[string]int{}
		for _, file := range archive.Files {
			word, _, _ := strings.Cut(file.Name, " ")
			count[word]++
			m, err := mime.Parse(file.Data, mime.Limits{})
			if err != nil {
				t.Fatal(err)
			}
			got := byRule(m)
			switch {
			case word == "yes" && (got == nil || got.Format != r.id || got.Type != r.kind):
				t.Errorf("%s, %s: %+v", r.id, file.Name, got)
			case word == "no" && got != nil && got.Format == r.id:
				t.Errorf("%s, %s: the rule fits", r.id, file.Name)
			}
		}
		if count["yes"] == 0 || count["no"] == 0 || count["yes"]+count["no"] != len(archive.Files) {
			t.Errorf("%s: %v", name, count)
		}
	}
	found, err := filepath.Glob("testdata/rules/*")
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range found {
		if !files[name] {
			t.Errorf("%s is of no rule", name)
		}
	}
}

// TestWhatRulesRead looks at what else a report by rule says.
func TestWhatRulesRead(t *testing.T) {
	for _, tc := range []struct{ rule, recipient, ip, messageID string }{
		{"microsoft.jmrp", "ann@outlook.example", "192.0.2.7", "<1@shop.example>"},
		{"microsoft.jmrp-subject", "ann@outlook.example", "192.0.2.7", "<1@shop.example>"},
		{"aol.scomp", "ann@aol.example", "invalid IP", "<1@shop.example>"},
		{"spamcop.report", "ann@mail.example", "192.0.2.7", "<1@shop.example>"},
		{"apple.unsubscribe", "ann@icloud.example", "invalid IP", ""},
		{"dmarc.failure-text", "ann@mail.example", "198.51.100.9", "<1@elsewhere.example>"},
		{"rfc6591.words", "ann@mail.example", "198.51.100.9", ""},
		{"abusix.words", "", "192.0.2.7", ""},
	} {
		archive, err := txtar.ParseFile(filepath.Join("testdata", "rules", tc.rule+".txtar"))
		if err != nil {
			t.Fatal(err)
		}
		r, err := parseText(t, string(archive.Files[0].Data))
		if err != nil {
			t.Fatal(err)
		}
		if got := strings.Join(r.Recipients(), " "); got != tc.recipient || r.SourceIP.String() != tc.ip || r.Original.Get("Message-ID") != tc.messageID {
			t.Errorf("%s: recipients %q, ip %v, Message-ID %q, want %+v", tc.rule, got, r.SourceIP, r.Original.Get("Message-ID"), tc)
		}
	}
}

func TestGlob(t *testing.T) {
	for _, tc := range []struct {
		pattern, s string
		want       bool
	}{
		{"abc", "abc", true},
		{"abc", "abcd", false},
		{"*", "", true},
		{"a*", "abc", true},
		{"*c", "abc", true},
		{"a*c", "ac", true},
		{"a*b*c", "a-b-b-c", true},
		{"*b*", "abc", true},
		{"*x*", "abc", false},
		{"a*a", "a", false},
		{"*bc*c", "abc", false},
	} {
		if got := glob(tc.pattern, tc.s); got != tc.want {
			t.Errorf("glob(%q, %q) = %v", tc.pattern, tc.s, got)
		}
	}
}

func TestMistakesInRules(t *testing.T) {
	for name, text := range map[string]string{
		"before the first rule": "type abuse",
		"unknown word":          "[a]\nsubject x\ntype abuse\nsource y\nnonsense z",
		"no value":              "[a]\nsubject\ntype abuse\nsource y",
		"no condition":          "[a]\ntype abuse\nsource y",
		"no type":               "[a]\nsubject x\nsource y",
		"no source":             "[a]\nsubject x\ntype abuse",
	} {
		if _, err := parseRules(text); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
}

// TestCorpus reads what providers sent, as far as it is labelled as feedback.
func TestCorpus(t *testing.T) {
	const corpora = "../../../shared/corpora"
	expected, err := os.ReadFile(filepath.Join(corpora, "expected.jsonl"))
	if errors.Is(err, os.ErrNotExist) {
		t.Skip("../shared/corpora is not there")
	}
	if err != nil {
		t.Fatal(err)
	}
	found := corpusScore(t, corpora, expected)
	t.Logf("%+v", found)
	if found.missed > 0 || found.wrong > 0 || found.types > 0 || found.recipients > 0 {
		t.Errorf("%+v", found)
	}
}
