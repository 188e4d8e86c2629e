package config

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/tools/txtar"

	"carom/schemas/service"
)

func TestRegistryIsWhole(t *testing.T) {
	for _, d := range Directives() {
		if _, ok := sectionRules[d.Scope]; !ok && d.Scope != globalScope {
			t.Errorf("%s: there is no section <%s>", d.Name, d.Scope)
		}
		if d.Name != strings.ToLower(d.Name) {
			t.Errorf("%s in <%s> is not in lower case", d.Name, d.Scope)
		}
		switch d.Status {
		case Implemented:
			if d.Note != "" {
				t.Errorf("%s in <%s> is %s with the note %q", d.Name, d.Scope, d.Status, d.Note)
			}
		case NoEffect, Planned:
			if d.Note == "" {
				t.Errorf("%s in <%s> has no effect for no reason", d.Name, d.Scope)
			}
		case Alias:
			if registry[d.Scope][d.Note].Status != Implemented {
				t.Errorf("%s in <%s> stands for %q, which is not implemented there", d.Name, d.Scope, d.Note)
			}
		default:
			t.Errorf("%s in <%s> has the status %q", d.Name, d.Scope, d.Status)
		}
	}
	for word, meaning := range invented {
		if _, ok := sectionRules[meaning]; !ok && len(scopesOf(meaning)) == 0 {
			t.Errorf("%q is said to mean %q, which does not exist", word, meaning)
		}
	}
	for _, name := range []string{"backoff-max-msg-rate", "max-smtp-out", "second-dkim-sign"} {
		if len(scopesOf(name)) == 0 {
			t.Errorf("%s is not in the registry", name)
		}
	}
}

func TestIncludeBounds(t *testing.T) {
	for _, tc := range []struct {
		name  string
		files memory
		want  string
	}{
		{"deep", func() memory {
			m := memory{"config": "include 0"}
			for i := range 30 {
				m[fmt.Sprint(i)] = fmt.Sprintf("include %d\n", i+1)
			}
			return m
		}(), "more than 16 files deep"},
		{"many", func() memory {
			m := memory{"config": "include 0"}
			for i := range 10 {
				m[fmt.Sprint(i)] = strings.Repeat(fmt.Sprintf("include %d\n", i+1), 10)
			}
			m["10"] = ""
			return m
		}(), "more than 10000 files"},
		{"large", memory{
			"config": strings.Repeat("include big\n", 100), "big": strings.Repeat("#", 1<<20),
		}, "more than 64 MB"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			_, _, err := parse("config", []byte(tc.files["config"]), tc.files)
			if err == nil || !strings.Contains(err.Error(), tc.want) {
				t.Errorf("got %v; want %q in it", err, tc.want)
			}
		})
	}
}

func TestMacroBounds(t *testing.T) {
	list := strings.TrimSuffix(strings.Repeat("x,", 100), ",")
	text := "domain-macro a " + list + "\ndomain-macro b $a$a$a\ndomain-macro c $d$d\ndomain-macro d $e$e\n" +
		"domain-macro e " + strings.Repeat("y", 200) + "\n<domain $b>\n</domain>\n<domain $c>\n</domain>"
	_, _, err := parse("config", []byte(text), memory{})
	for _, want := range []string{"more than 10000 patterns", "more than 300 bytes"} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("got %v; want %q in it", err, want)
		}
	}
}

func TestSuggestionsAreBounded(t *testing.T) {
	_, _, err := parse("config", []byte(strings.Repeat("max-smtp-outt 1\n", maxSuggested+1)), memory{})
	all := Errors(err)
	if len(all) != maxSuggested+1 {
		t.Fatalf("%d mistakes, want %d", len(all), maxSuggested+1)
	}
	for i, e := range all {
		if has := strings.Contains(e.Message, "did you mean"); has != (i < maxSuggested) {
			t.Errorf("mistake %d: %v", i, e)
		}
	}
}

func TestMistakesAreBounded(t *testing.T) {
	_, _, err := parse("config", []byte(strings.Repeat("x\n", maxMistakes+2)), memory{})
	all := Errors(err)
	if len(all) != maxMistakes+1 || all[maxMistakes].Error() != "config:10001:1: and 2 mistakes more: is it a configuration?" {
		t.Errorf("%d mistakes, the last %v", len(all), all[len(all)-1])
	}
}

func TestHash(t *testing.T) {
	hash := func(name string, m memory) uint64 {
		c, _, err := parse(name, []byte(m[name]), m)
		if err != nil {
			t.Fatal(err)
		}
		return c.Hash()
	}
	first := hash("a/config", memory{"a/config": "include x", "a/x": "host-name a"})
	if second := hash("b/config", memory{"b/config": "include x", "b/x": "host-name a"}); second != first {
		t.Errorf("the same text in another folder has another hash: %x, %x", first, second)
	}
	if other := hash("a/config", memory{"a/config": "include x", "a/x": "host-name b"}); other == first {
		t.Errorf("another include has the same hash: %x", first)
	}
}

func TestLoadFromDisk(t *testing.T) {
	dir := t.TempDir()
	write := func(name, text string) {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write("config", "host-name a.example\ninclude *.conf\n<spool spool></spool>\n")
	write("1.conf", "total-max-smtp-out 7\nthread-reuse no")
	file := filepath.Join(dir, "config")
	c, warnings, err := Load(file)
	if err != nil || c.TotalMaxSMTPOut != 7 || c.Spools[0].Dir != filepath.Join(dir, "spool") || len(warnings) != 1 {
		t.Fatalf("Load: %+v, %v, %v", c, warnings, err)
	}

	run := func(args ...string) (string, int) {
		var out bytes.Buffer
		err := CheckCommand(context.Background(), args, service.IO{Out: &out, Err: &out})
		return strings.ReplaceAll(out.String(), dir, "DIR"), service.ExitStatus(err)
	}
	out, status := run(file)
	if want := "DIR/1.conf:2:1: warning: thread-reuse: accepted, has no effect: carom has no threads to set\n"; !strings.HasPrefix(out, want) || !strings.Contains(out, "\nDIR/config: ok, ") || status != 0 {
		t.Errorf("check of a good file = %d\n%s", status, cmp.Diff(want, out))
	}
	if out, status = run(file, "--strict"); status != 1 || !strings.Contains(out, "[no-domain-star]; add <domain *>") {
		t.Errorf("check --strict of a file with warnings = %d\n%s", status, out)
	}
	write("2.conf", "max-msg-rate 5/m\nhost-name <a>\n")
	out, status = run(file, "--json")
	var findings struct {
		OK       bool
		Mistakes []struct {
			File, Message string
			Line, Column  int
		}
	}
	if err := json.Unmarshal([]byte(out), &findings); err != nil {
		t.Fatalf("%v in\n%s", err, out)
	}
	if status != 2 || findings.OK || len(findings.Mistakes) != 2 || findings.Mistakes[1].Line != 2 || findings.Mistakes[1].Column != 11 {
		t.Errorf("check of a bad file = %d, %+v", status, findings)
	}
	for _, args := range [][]string{{}, {file, "more"}, {filepath.Join(dir, "none")}, {"--nope"}} {
		if out, status := run(args...); status != 2 {
			t.Errorf("check %q = %d; want 2\n%s", args, status, out)
		}
	}
	if out, status := run("--help"); status != 0 || !strings.Contains(out, "Example") {
		t.Errorf("check --help = %d\n%s", status, out)
	}
	_, _, err = Load(filepath.Join(dir, "none"))
	if all := Errors(err); len(all) != 1 || all[0].Error() != filepath.Join(dir, "none")+": no such file" {
		t.Errorf("Load of no file: %v", err)
	}
}

func FuzzParse(f *testing.F) {
	archives, err := filepath.Glob("testdata/*.txtar")
	if err != nil {
		f.Fatal(err)
	}
	for _, name := range archives {
		archive, err := txtar.ParseFile(name)
		if err != nil {
			f.Fatal(err)
		}
		for _, file := range archive.Files {
			if file.Name == "config" {
				f.Add(file.Data, []byte("max-smtp-out 1\n"), "a.com")
			}
		}
	}
	f.Add([]byte("include-from /\ninclude a\ninclude-from a\n<domain a.com"), []byte("include-from /\npassword=x"), "a.com")
	f.Add([]byte("include a\n<domain $x>\ninclude a\n</domain>\ndomain-macro x a,$y\ndomain-macro y b.$z"), []byte("include ?\n<x>"), "")
	f.Fuzz(func(t *testing.T, data, included []byte, domain string) {
		m := maps.Clone(testKeys())
		m["/etc/carom/a"] = string(included)
		c, warnings, err := parse("/etc/carom/config", data, m)
		for _, w := range warnings {
			if w.Pos.File == "" || w.Message == "" {
				t.Errorf("incomplete warning %+v", w)
			}
		}
		if err != nil {
			all := Errors(err)
			if c != nil || len(all) == 0 {
				t.Errorf("a configuration %v with %d mistakes: %v", c, len(all), err)
			}
			lines := 1 + max(bytes.Count(data, []byte("\n")), bytes.Count(included, []byte("\n")))
			for _, e := range all {
				if e.Pos.File == "" || e.Pos.Line < 1 || e.Pos.Line > lines && !strings.HasPrefix(e.Pos.File, "/etc/carom/keys") {
					t.Errorf("mistake in no place: %v", e)
				}
			}
			return
		}
		for _, m := range c.VMTAs() {
			if s := c.Domain(domain, m.Name); len(s.RetryAfter) == 0 || s.BounceAfter <= 0 || s.DefaultSMTPPort == 0 {
				t.Errorf("settings that cannot work: %+v", s)
			}
			c.Explain(domain, m.Name)
		}
		c.Source(c.Listeners[0].Prefix.Addr(), domain)
		c.Relays(domain)
		again, _, err := parse("/etc/carom/config", data, m)
		if err != nil || again.Hash() != c.Hash() {
			t.Errorf("the second reading differs: %v", err)
		}
	})
}

// largeConfig returns a configuration of about 50,000 lines: 5,000 domains, 500 vmtas with 13
// domains each.
func largeConfig() []byte {
	var b bytes.Buffer
	b.WriteString("host-name mail.example.com\ndomain-key dkim,*,keys/rsa.pem\n")
	for i := range 5000 {
		fmt.Fprintf(&b, "<domain d%d.example.com>\n\tmax-smtp-out %d\n\tmax-msg-rate %d/h # a comment\n\tbounce-after 4d12h\n</domain>\n", i, i+1, i+1)
	}
	for i := range 500 {
		fmt.Fprintf(&b, "<virtual-mta v%d>\n\tsmtp-source-host 10.0.%d.%d v%d.example.com\n\tdomain-key v%d,example.com,keys/rsa.pem\n", i, i/250, i%250, i, i)
		for j := range 12 {
			fmt.Fprintf(&b, "\t<domain [*.]d%d.example.com>\n\t\tmax-msg-rate %d/h\n\t\tretry-after 10m,30m,1h\n\t</domain>\n", j, i+1)
		}
		b.WriteString("</virtual-mta>\n")
	}
	return b.Bytes()
}

func BenchmarkParse(b *testing.B) {
	data := largeConfig()
	m := testKeys()
	b.SetBytes(int64(len(data)))
	b.ReportAllocs()
	b.ReportMetric(float64(bytes.Count(data, []byte("\n"))), "lines")
	for b.Loop() {
		if _, _, err := parse("/etc/carom/config", data, m); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkCheck is carom check config with its rules.
func BenchmarkCheck(b *testing.B) {
	dir := b.TempDir()
	data := bytes.ReplaceAll(largeConfig(), []byte("keys/rsa.pem"), []byte(filepath.Join(dir, "rsa.pem")))
	for name, content := range map[string][]byte{"config": data, "rsa.pem": []byte(testKeys()["/etc/carom/keys/rsa.pem"])} {
		if err := os.WriteFile(filepath.Join(dir, name), content, 0o600); err != nil {
			b.Fatal(err)
		}
	}
	m := thisMachine()
	b.SetBytes(int64(len(data)))
	b.ReportAllocs()
	for b.Loop() {
		if f := check(b.Context(), filepath.Join(dir, "config"), m); !f.OK {
			b.Fatal(f.Mistakes[0])
		}
	}
}

func BenchmarkDomain(b *testing.B) {
	c, _, err := parse("/etc/carom/config", largeConfig(), testKeys())
	if err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	for b.Loop() {
		c.Domain("a.d7.example.com", "v77")
	}
}

func TestErrorsOfOtherErrors(t *testing.T) {
	if got := Errors(errors.Join(errors.New("x"), fmt.Errorf("y: %w", &Error{Pos{"f", 1, 2}, "z"}))); !slices.EqualFunc(got, []string{"f:1:2: z"}, func(e *Error, s string) bool { return e.Error() == s }) {
		t.Errorf("Errors = %v", got)
	}
	if got := Errors(nil); got != nil {
		t.Errorf("Errors(nil) = %v", got)
	}
}
