package rig

import (
	"bytes"
	"strings"
	"testing"

	"carom/schemas/event"
)

// story is what happens to message 1 with one recipient, step by step.
type story func(a *Audit)

var (
	address = Address(1, 0, "a.test")
	to      = []string{address}
)

func offered(a *Audit)  { a.Offered(Message{Number: 1, Recipients: to}) }
func accept(a *Audit)   { a.Accepted(1) }
func refuse(a *Audit)   { a.Refused(1) }
func deliver(a *Audit)  { a.delivered(1, to, nil) }
func kill(a *Audit)     { a.Killed() }
func goesOn(a *Audit)   { a.confirmed(a.messages[1].recipients[0].last) }
func received(a *Audit) { a.event(1, &event.Event{Kind: event.Received, Recipient: address}) }
func done(a *Audit)     { a.event(2, &event.Event{Kind: event.Delivered, Recipient: address}) }
func bounced(a *Audit)  { a.event(2, &event.Event{Kind: event.Bounced, Recipient: address}) }

// TestAudit has an audit say yes to what may be, and no to everything else.
func TestAudit(t *testing.T) {
	for _, tc := range []struct {
		name  string
		steps []story
		want  string // part of the only problem; "" for none
	}{
		{"delivered", []story{offered, received, accept, deliver, goesOn, done}, ""},
		{"in doubt and not taken", []story{offered, kill}, ""},
		{"in doubt and taken", []story{offered, kill, received, deliver, goesOn, done}, ""},
		{"again, as it was in flight at a kill", []story{offered, received, accept, deliver, kill, deliver, goesOn, done}, ""},
		{"refused", []story{offered, refuse}, ""},

		{"again for no reason", []story{offered, received, accept, deliver, deliver, done}, "was not in flight"},
		{"again, though it was recorded at the kill", []story{offered, received, accept, deliver, goesOn, kill, deliver, done}, "was not in flight"},
		{"lost", []story{offered, received, accept}, "0 ends"},
		{"lost without a trace", []story{offered, accept}, "0 received events"},
		{"lost, but the log says delivered", []story{offered, received, accept, done}, "arrived 0 times"},
		{"bounced for no reason", []story{offered, received, accept, bounced}, "want one delivered"},
		{"received twice", []story{offered, received, accept, received, deliver, done}, "was received 2 times"},
		{"two ends", []story{offered, received, accept, deliver, done, done}, "1 final events"},
		{"end before its beginning", []story{offered, accept, deliver, done, received}, "after 0 received"},
		{"refused and delivered", []story{offered, refuse, deliver}, "had refused"},
		{"refused and received", []story{offered, refuse, received}, "not accepted"},
		{"never offered", []story{offered, refuse, func(a *Audit) { a.delivered(2, []string{Address(2, 0, "a.test")}, nil) }}, "nobody sent"},
		{"another's message", []story{offered, received, accept, func(a *Audit) { a.delivered(7, to, nil) }, done}, "got message 7"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			a := &Audit{}
			for _, step := range tc.steps {
				step(a)
			}
			problems := a.Settle()
			if got := strings.Join(problems, "\n"); tc.want == "" && got != "" || !strings.Contains(got, tc.want) {
				t.Errorf("problems %q, want %q", got, tc.want)
			}
		})
	}
}

// TestCheck changes a message in one octet each, below the trace fields and among them.
func TestCheck(t *testing.T) {
	m := Message{Number: 42, Size: 300}
	const trace = "Received: from a\r\n\tby b;\r\n"
	whole := append([]byte(trace), m.Content()...)
	if n, err := Check(whole); n != 42 || err != nil {
		t.Fatalf("Check of what was sent: %d, %v", n, err)
	}
	for i := range len(whole) - len(trace) {
		changed := bytes.Clone(whole)
		changed[len(trace)+i] ^= 1
		if _, err := Check(changed); err == nil {
			t.Errorf("octet %d is changed, and Check does not see it", i)
		}
	}
	if _, err := Check(whole[:len(whole)-2]); err == nil {
		t.Error("Check does not miss the end")
	}
}

func TestAddress(t *testing.T) {
	if n, k, err := ParseAddress(Address(12, 3, "d.test")); n != 12 || k != 3 || err != nil {
		t.Errorf("ParseAddress: %d, %d, %v", n, k, err)
	}
	for _, other := range []string{"", "a@b", "m1@b", "m-1@b", "m1-x@b"} {
		if _, _, err := ParseAddress(other); err == nil {
			t.Errorf("ParseAddress(%q) has no objection", other)
		}
	}
}
