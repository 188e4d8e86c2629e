package phrase

import (
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

func found(tb testing.TB, phrases []string, text string) []string {
	tb.Helper()
	f, err := New(phrases)
	if err != nil {
		tb.Fatal(err)
	}
	var all []string
	for m := range f.All(text) {
		all = append(all, text[m.Start:m.End])
	}
	return all
}

func TestAll(t *testing.T) {
	for _, tc := range []struct {
		name    string
		phrases []string
		text    string
		want    []string
	}{
		{"one", []string{"user unknown"}, "550 user unknown", []string{"user unknown"}},
		{"one inside another", []string{"her", "she", "hers", "sher"}, "ushers", []string{"she", "sher", "her", "hers"}},
		{"edges of words", []string{"~to:"}, "to: auto: to:x", []string{"to:", "to:"}},
		{"a text shorter than a head", []string{"abc"}, "ab", nil},
		{"an edge at the end", []string{"ant~"}, "ant ants ant", []string{"ant", "ant"}},
		{"other scripts", []string{"退信", "не найден"}, "原因: 退信, адрес не найден", []string{"退信", "не найден"}},
		{"none", []string{"abc"}, "", nil},
	} {
		t.Run(tc.name, func(t *testing.T) {
			if got := found(t, tc.phrases, tc.text); !slices.Equal(got, tc.want) {
				t.Errorf("in %q found %q, want %q", tc.text, got, tc.want)
			}
		})
	}
}

func TestNewRefuses(t *testing.T) {
	for _, phrases := range [][]string{{""}, {"~"}, {"Upper"}, {"abc", ""}, {"ab"}, {"~ab~"}} {
		if _, err := New(phrases); err == nil {
			t.Errorf("New(%q) takes it", phrases)
		}
	}
}

// TestAllIsContains compares with the plain search.
func TestAllIsContains(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		phrases := rapid.SliceOfNDistinct(rapid.StringMatching(`[ab ]{3,5}`), 1, 6, rapid.ID[string]).Draw(t, "phrases")
		text := rapid.StringMatching(`[abc ]{0,60}`).Draw(t, "text")
		f, err := New(phrases)
		if err != nil {
			t.Fatal(err)
		}
		count := map[int]int{}
		for m := range f.All(text) {
			count[m.ID]++
			if text[m.Start:m.End] != phrases[m.ID] {
				t.Fatalf("%q at %d", phrases[m.ID], m.Start)
			}
		}
		for id, p := range phrases {
			want := 0
			for at := 0; at+len(p) <= len(text); at++ {
				if strings.HasPrefix(text[at:], p) {
					want++
				}
			}
			if count[id] != want {
				t.Fatalf("%q is %d times in %q, found %d times", p, want, text, count[id])
			}
		}
	})
}
