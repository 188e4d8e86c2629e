package arf

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"carom/ingest/mime"
)

// score counts what went wrong with labelled messages.
type score struct {
	files      int
	missed     int // feedback that is not recognised
	wrong      int // other mail that is
	types      int // the wrong feedback type
	recipients int // labelled recipients that are not found
}

// corpusScore reads all messages of the corpora at dir. A notification of Amazon SNS is no mail of a
// provider's feedback loop (ingest/sns reads it).
func corpusScore(t *testing.T, dir string, expected []byte) (s score) {
	t.Helper()
	for line := range bytes.Lines(expected) {
		var e struct {
			File, Kind string
			Recipients []struct{ Recipient, FeedbackType string }
		}
		if err := json.Unmarshal(line, &e); err != nil {
			t.Fatal(err)
		}
		data, err := os.ReadFile(filepath.Join(dir, "files", e.File))
		if err != nil {
			t.Fatal(err)
		}
		m, err := mime.Parse(data, mime.Limits{})
		if err != nil || strings.HasSuffix(m.Header.Get("From"), "@sns.amazonaws.com>") {
			continue
		}
		r, err := Parse(m)
		if e.Kind != "arf" {
			if err == nil && e.Kind != "unknown" {
				s.wrong++
				t.Logf("%s: read as %s", e.File, r.Format)
			}
			continue
		}
		s.files++
		if err != nil {
			s.missed++
			t.Logf("%s: %v", e.File, err)
			continue
		}
		for _, want := range e.Recipients {
			if want.Recipient != "" && !slices.Contains(r.Recipients(), want.Recipient) {
				s.recipients++
				t.Logf("%s: recipients %q, want %q", e.File, r.Recipients(), want.Recipient)
			}
			if want.FeedbackType != string(r.Type) {
				s.types++
				t.Logf("%s: type %s, want %s", e.File, r.Type, want.FeedbackType)
			}
		}
	}
	return s
}
