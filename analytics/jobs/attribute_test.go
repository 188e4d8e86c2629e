package jobs

import (
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
)

func TestAttribute(t *testing.T) {
	now := time.Date(2026, 11, 29, 12, 0, 0, 0, time.UTC)
	ago := func(d time.Duration) time.Time { return now.Add(-d) }
	a, b, c := uuid.UUID{1}, uuid.UUID{2}, uuid.UUID{3}
	found := []delivered{
		{message: a, index: 1, time: ago(48 * time.Hour), recipientKey: "ann", mailFrom: "news@shop.test", quoted: "<a@shop.test>"},
		{message: b, index: 1, time: ago(24 * time.Hour), recipientKey: "ann", mailFrom: "News@Shop.test"},
		{message: c, index: 7, time: ago(time.Hour), recipientKey: "bob", mailFrom: "news@shop.test"},
		{message: c, index: 7, time: ago(2 * time.Hour), recipientKey: "bob", mailFrom: "news@shop.test"}, // the same, by another query
		{message: c, index: 8, time: ago(50 * 24 * time.Hour), recipientKey: "eve", mailFrom: "news@shop.test"},
	}
	for _, tc := range []struct {
		name       string
		r          reported
		message    uuid.UUID
		method     string
		confidence float32
		proven     bool
	}{
		{"token", reported{message: a, index: 1, method: "envid", confidence: 1, time: now}, a, "envid", 1, true},
		{"token of another recipient of the message", reported{message: a, index: 2, method: "envid", confidence: 1, time: now}, uuid.Nil, "envid", 1, false},
		{"token, whatever it quotes", reported{message: c, index: 7, method: "envid", confidence: 0.7, recipientKey: "ann", quoted: "<a@shop.test>", time: now}, c, "envid", 0.7, true},
		{"Message-ID", reported{method: "none", recipientKey: "ann", quoted: "<a@shop.test>", mailFrom: "x", time: now}, a, "message-id", 0.8, false},
		{"Message-ID of a message to another", reported{method: "none", recipientKey: "bob", quoted: "<a@shop.test>", time: now}, uuid.Nil, "none", 0, false},
		{"latest of two", reported{method: "none", recipientKey: "ann", mailFrom: "news@shop.test", time: now}, b, "recipient", 0.3, false},
		{"only one before the report", reported{method: "none", recipientKey: "ann", mailFrom: "news@shop.test", time: ago(30 * time.Hour)}, a, "recipient", 0.5, false},
		{"none before the report", reported{method: "none", recipientKey: "ann", mailFrom: "news@shop.test", time: ago(50 * time.Hour)}, uuid.Nil, "none", 0, false},
		{"one that was found twice", reported{method: "none", recipientKey: "bob", mailFrom: "news@shop.test", time: now}, c, "recipient", 0.5, false},
		{"another originator", reported{method: "none", recipientKey: "bob", mailFrom: "other@shop.test", time: now}, uuid.Nil, "none", 0, false},
		{"no originator", reported{method: "none", recipientKey: "bob", time: now}, uuid.Nil, "none", 0, false},
		{"too long ago", reported{method: "none", recipientKey: "eve", mailFrom: "news@shop.test", time: now}, uuid.Nil, "none", 0, false},
		{"VERP", reported{method: "verp", confidence: 0.5, recipientKey: "bob", mailFrom: "news@shop.test", time: now}, c, "verp", 0.5, false},
		{"signed, no originator", reported{method: "dkim-reporter", confidence: 0.9, recipientKey: "bob", time: now}, c, "dkim-reporter", 0.9, true},
		{"signed, Message-ID", reported{method: "dkim-reporter", confidence: 0.9, recipientKey: "ann", quoted: "<a@shop.test>", time: now}, a, "dkim-reporter", 0.9, true},
		{"signed, about another's mail", reported{method: "dkim-reporter", confidence: 0.9, recipientKey: "bob", mailFrom: "x@other.test", time: now}, uuid.Nil, "dkim-reporter", 0.9, false},
		{"nobody named", reported{method: "none", mailFrom: "news@shop.test", time: now}, uuid.Nil, "none", 0, false},
	} {
		got := attribute([]reported{tc.r}, found, now)
		if len(got) != 1 {
			t.Errorf("%s: %d attributions", tc.name, len(got))
			continue
		}
		var message uuid.UUID
		if got[0].delivery != nil {
			message = got[0].delivery.message
		}
		if message != tc.message || got[0].method != tc.method || got[0].confidence != tc.confidence || got[0].proven() != tc.proven {
			t.Errorf("%s: %s by %s %v, proven %t; want %s by %s %v, %t", tc.name, message, got[0].method, got[0].confidence, got[0].proven(),
				tc.message, tc.method, tc.confidence, tc.proven)
		}
	}

	// A token whose delivery is not there yet waits, and does not for ever.
	early := reported{message: uuid.UUID{9}, method: "envid", confidence: 1, arrived: ago(time.Minute)}
	if got := attribute([]reported{early}, found, ago(time.Hour)); len(got) != 0 {
		t.Errorf("%d attributions of a report that came early, want none yet", len(got))
	}
	if got := attribute([]reported{early}, found, now); len(got) != 1 || got[0].proven() {
		t.Errorf("a report that waited long enough: %+v", got)
	}
}

// What a stranger writes must not end a query.
func TestPlainMessageIDs(t *testing.T) {
	for id, want := range map[string]bool{
		"<1.a+b=c@shop.test>": true, "": false, "<a b@c>": false, "<a'b@c>": false, `<a\b@c>`: false, "<a?b@c>": false, "<a\nb@c>": false, "<ä@c>": false,
		strings.Repeat("a", maxQuoted): true, strings.Repeat("a", maxQuoted+1): false,
	} {
		if got := isPlain(id); got != want {
			t.Errorf("isPlain(%q) = %t", id, got)
		}
	}
}
