package regexset

import (
	"fmt"
	"regexp"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

// oneByOne is what First must be the same as.
func oneByOne(patterns []*regexp.Regexp, text string) int {
	return slices.IndexFunc(patterns, func(p *regexp.Regexp) bool { return p.MatchString(text) })
}

func compile(t testing.TB, expressions ...string) []*regexp.Regexp {
	t.Helper()
	all := make([]*regexp.Regexp, len(expressions))
	for i, e := range expressions {
		p, err := regexp.Compile(e)
		if err != nil {
			t.Fatal(err)
		}
		all[i] = p
	}
	return all
}

func TestRequired(t *testing.T) {
	for _, tc := range []struct {
		expression string
		want       []string
	}{
		{`(?i)Try again later`, []string{"try again later"}},
		{`(?i)try (again )?later`, []string{"try later", "try again later"}},
		{`421 .* Message temporarily deferred`, []string{" message temporarily deferred"}},
		{`\[TS0[1-3]\]`, []string{"[ts01]", "[ts02]", "[ts03]"}},
		{`(?i)(spam|virus|junk mail)`, []string{"spam", "virus", "junk mail"}},
		{`(?i)(user|mailbox|x)`, nil},
		{`(?i)abc|abd`, []string{"abc", "abd"}},
		{`^[45]\.1\.1`, []string{"4.1.1", "5.1.1"}},
		{`(?:too many){2,}`, []string{"too many"}},
		{`(?:too many)*`, nil},
		{`.*`, nil},
		{``, nil},
		{`ab`, nil},
		{`mailbox épuisé`, []string{"mailbox "}},
		{`é`, nil},
		{`~~~`, nil},
		{`~full~`, []string{"full"}},
		{`(?i)kiss`, []string{"kiss"}},
	} {
		got := required(tc.expression)
		if len(got) == 0 && tc.want == nil {
			continue
		}
		if len(got) == 0 || !slices.Equal(got[0], tc.want) { // the list that says most
			t.Errorf("required(%q) = %q, want %q", tc.expression, got, tc.want)
		}
	}
	want := [][]string{{"blocked ", "refused "}, {"cause", "reason"}, {"code 17"}}
	got := required(`(?i)(cause|reason)\b.*(blocked|refused) .*code 17`)
	slices.SortFunc(got, func(a, b []string) int { return strings.Compare(a[0], b[0]) })
	if !slices.EqualFunc(got, want, slices.Equal[[]string]) {
		t.Errorf("several claims: %q, want %q", got, want)
	}
}

func TestFirst(t *testing.T) {
	s := New(compile(t, `(?i)quota exceeded`, `(?i)spam|virus`, `x{3}`, `^5`, `(?i)kiss`))
	for text, want := range map[string]int{
		"552 QUOTA exceeded, spam": 0, "4 Virus": 1, "an xxx": 2, "550 no": 3, "": -1, "450 no": -1,
		"a \u212ai\u017fs": 4, // a Kelvin sign and a long s, which Go takes for a k and an s
	} {
		if got := s.First(text); got != want {
			t.Errorf("First(%q) = %d, want %d", text, got, want)
		}
	}
	if got := New(nil).First("x"); got != -1 {
		t.Errorf("First of no patterns = %d", got)
	}
}

// TestFirstIsWhatTryingAllFinds makes up expressions and texts.
func TestFirstIsWhatTryingAllFinds(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		patterns := make([]*regexp.Regexp, 0, 80)
		for _, e := range rapid.SliceOfN(rapid.StringMatching(`(\(\?i\))?(\^)?([abks]{1,4}|\[a-c\]|\(abc|abd|k\)|\.|a\?|\(sak\)\{1,2\}|~|é)([abks]{1,3}|\.\*|b\+|\\b|a\*)?`), 1, 80).Draw(t, "expressions") {
			if p, err := regexp.Compile(e); err == nil {
				patterns = append(patterns, p)
			}
		}
		text := rapid.StringMatching(`[abcdksABKSé~ſ\x{212a} ]{0,12}`).Draw(t, "text")
		if got, want := New(patterns).First(text), oneByOne(patterns, text); got != want {
			t.Fatalf("First(%q) of %v = %d, want %d", text, patterns, got, want)
		}
	})
}

func FuzzFirst(f *testing.F) {
	f.Add("(?i)try (again )?later", "4[0-9]{2} .*too many|x", "421 Try later")
	f.Add(`\[TS0[1-3]\]`, "(a|b)+c?", "\xff\u212a")
	f.Fuzz(func(t *testing.T, first, second, text string) {
		var patterns []*regexp.Regexp
		for _, e := range []string{first, second} {
			if p, err := regexp.Compile(e); err == nil && len(e) < 200 {
				patterns = append(patterns, p)
			}
		}
		if got, want := New(patterns).First(text), oneByOne(patterns, text); got != want {
			t.Errorf("First(%q) of %v = %d, want %d", text, patterns, got, want)
		}
	})
}

// BenchmarkFirst has 1,000 patterns in the style of operators' files, of which none matches but the last.
func BenchmarkFirst(b *testing.B) {
	words := strings.Fields("temporarily deferred excessive unknown recipients rate limited blocked reputation connection policy rejected complaints volume throttled listed")
	expressions := make([]string, 0, 1000)
	for i := range 999 {
		expressions = append(expressions, fmt.Sprintf(`(?i)4[0-9]{2} .*%s (has been )?%s.*code %d`, words[i%len(words)], words[(i/7)%len(words)], 1000+i))
	}
	patterns := compile(b, append(expressions, `(?i)try again later`)...)
	s := New(patterns)
	const reply = "421 4.7.0 [192.0.2.1] Our system has detected an unusual rate of unsolicited mail originating from your IP address. To protect our users, mail has been temporarily rate limited, reputation low. Try again later, code 17 - gsmtp"
	b.ReportAllocs()
	for b.Loop() {
		if s.First(reply) != 999 {
			b.Fatal("the last pattern does not match")
		}
	}
}
