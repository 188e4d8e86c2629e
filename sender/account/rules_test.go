package account

import (
	"context"
	"errors"
	"log/slog"
	"path/filepath"
	"strings"
	"testing"

	"carom/schemas/event"
	"carom/schemas/smtpstatus"
)

// TestLogRules: the log has the operator's category beside the classifier's word, and no recipient
// where it must not; what else reads the event sees the recipient.
func TestLogRules(t *testing.T) {
	j := &journal{}
	f, _ := file(t, FileOptions{RecordOptions: RecordOptions{Records: []string{"b"}}})
	r := NewRecorder(j, j, []Sink{f}, 0, slog.New(slog.DiscardHandler))
	r.Categorize(categories(t, "no such user => my-own"))
	r.HideInLog(policy(t, Redact, "..."))
	stop, done := run(t.Context(), r)
	e := delivered()
	e.Kind, e.Category, e.PMTACategory, e.RecipientKey = event.Bounced, "bad-mailbox", "bad-mailbox", "key"
	e.SetReply(smtpstatus.New(550, "5.1.1 <ann@example.com>: no such user"))
	if err := r.Record(t.Context(), &e); err != nil {
		t.Fatal(err)
	}
	if err := r.Rotate(t.Context()); err != nil {
		t.Fatal(err)
	}
	stop()
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	logged := j.events[0]
	if logged.PMTACategory != "my-own" || logged.Category != "bad-mailbox" || logged.RecipientKey != "key" {
		t.Errorf("category %s (%s), key %s", logged.PMTACategory, logged.Category, logged.RecipientKey)
	}
	if logged.Recipient != "...@example.com" || strings.Contains(strings.ToLower(logged.Reply+logged.Headers["ORCPT"]), "ann") {
		t.Errorf("the log shows %s, %s, %s", logged.Recipient, logged.Reply, logged.Headers["ORCPT"])
	}
	for name, text := range listing(t, filepath.Dir(f.options.Path)) {
		if !strings.Contains(text, ",ann@example.com,") || !strings.Contains(text, ",my-own,") {
			t.Errorf("%s: %s", name, text)
		}
	}
	if err := r.Rotate(t.Context()); !errors.Is(err, ErrStopped) {
		t.Errorf("Rotate after the end: %v", err)
	}
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	if err := NewRecorder(j, j, nil, 0, slog.New(slog.DiscardHandler)).Rotate(ended); !errors.Is(err, context.Canceled) {
		t.Errorf("Rotate of a recorder that does not run: %v", err)
	}
}
