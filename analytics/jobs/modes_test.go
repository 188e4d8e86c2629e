package jobs

import (
	"testing"

	"carom/analytics/policy"
	"carom/schemas/limits"
)

// Where the loop is active the nodes are told so before a key has its first lease: else the first reply
// that matches a pattern of theirs would put the queue into backoff mode, and the loop would see no more.
func TestActiveModesAreInTheDocument(t *testing.T) {
	for _, tc := range []struct {
		mode limits.Mode
		want limits.Mode // that a node is told about google
	}{{limits.Active, limits.Active}, {limits.Advise, ""}, {limits.Off, limits.Off}} {
		p := &pass{policy: &policy.Policy{Mode: tc.mode}, overrides: &overrides{}}
		d := limits.Document{Modes: p.modes()}
		if got := d.ModeAt("google"); got != tc.want {
			t.Errorf("with mode %s the document says %q of google, want %q", tc.mode, got, tc.want)
		}
		p.policy.Providers = map[string]policy.Provider{"yahoo": {Mode: limits.Advise}}
		d.Modes = p.modes()
		if got := d.ModeAt("yahoo"); got != limits.Advise && got != "" || tc.want != "" && got == "" {
			t.Errorf("with mode %s and advise at yahoo the document says %q of it", tc.mode, got)
		}
	}
}
