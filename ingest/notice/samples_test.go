package notice

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"golang.org/x/tools/txtar"

	"carom/ingest/mime"
)

// samples returns the mails of testdata/samples.txtar by name, and what is wanted of each.
func samples(tb testing.TB) (mails map[string][]byte, want map[string]string) {
	tb.Helper()
	archive, err := txtar.ParseFile("testdata/samples.txtar")
	if err != nil {
		tb.Fatal(err)
	}
	mails, want = map[string][]byte{}, map[string]string{}
	for _, f := range archive.Files {
		if name, ok := strings.CutSuffix(f.Name, ".eml"); ok {
			mails[name] = f.Data
		} else {
			want[strings.TrimSuffix(f.Name, ".want")] = strings.TrimRight(string(f.Data), "\n")
		}
	}
	return mails, want
}

func parseMail(tb testing.TB, data []byte) *mime.Message {
	tb.Helper()
	m, err := mime.Parse(data, mime.Limits{})
	if err != nil {
		tb.Fatal(err)
	}
	return m
}

func TestSamples(t *testing.T) {
	mails, want := samples(t)
	for name, mail := range mails {
		t.Run(name, func(t *testing.T) {
			m := parseMail(t, mail)
			r, err := Parse(m)
			if err != nil {
				got := "none"
				if automatic, ok := errors.AsType[*AutomaticError](err); ok {
					got = "automatic " + automatic.Rule
				}
				if got != want[name] {
					t.Errorf("%s: %v\nwant %s", got, err, want[name])
				}
				return
			}
			lines := strings.Split(want[name], "\n")
			if len(lines) != len(r.Recipients) {
				t.Errorf("%d recipients by %s, want %d: %+v", len(r.Recipients), r.Format, len(lines), r.Recipients)
				return
			}
			for i, rcpt := range r.Recipients {
				got := fmt.Sprintf("%s %s %s", rcpt.Final, rcpt.Action, rcpt.Status)
				words := strings.TrimSpace(strings.TrimPrefix(lines[i], got))
				if !strings.HasPrefix(lines[i], got) || !strings.Contains(rcpt.Diagnostic, words) {
					t.Errorf("got %s %q, want %s", got, rcpt.Diagnostic, lines[i])
				}
			}
		})
	}
}
