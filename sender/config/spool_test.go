package config

import (
	"strings"
	"testing"
)

func TestSpools(t *testing.T) {
	c, warnings, err := Parse("/etc/carom/config", []byte(`
spool /old
<spool /a>
	priority 100
	min-free-space 2G
</spool>
<spool /b>
	deliver-only yes
	min-free-space 0
</spool>
spool-min-free-space 300
`))
	if err != nil || len(warnings) > 0 {
		t.Fatalf("Parse: %v, %v", err, warnings)
	}
	type spool struct {
		dir         string
		priority    int
		deliverOnly bool
		minFree     Size
	}
	want := []spool{{"/old", 1, false, 300 << 20}, {"/a", 100, false, 2 << 30}, {"/b", 1, true, 0}}
	if len(c.Spools) != len(want) {
		t.Fatalf("%d spools, want %d", len(c.Spools), len(want))
	}
	for i, s := range c.Spools {
		if got := (spool{s.Dir, s.Priority, s.DeliverOnly, s.MinFreeSpace}); got != want[i] {
			t.Errorf("spool %+v, want %+v", got, want[i])
		}
	}
}

func TestSpoolMistakes(t *testing.T) {
	for _, tc := range []struct{ text, want string }{
		{"<spool /a>\npriority 0\n</spool>", `priority: bad number "0"; want a number from 1 to 100`},
		{"<spool /a>\npriority 101\n</spool>", `priority: bad number "101"`},
		{"<spool /a>\ndeliver-only maybe\n</spool>", `deliver-only: bad value "maybe"`},
		{"spool-min-free-space lots", `spool-min-free-space: bad size "lots"`},
		{"spool-min-free-space 9000000000000000", `bad size`},
	} {
		if _, _, err := Parse("/c", []byte(tc.text)); err == nil || !strings.Contains(err.Error(), tc.want) {
			t.Errorf("%q: %v, want %s", tc.text, err, tc.want)
		}
	}
}

func TestSpoolMinFreeSpaceUnits(t *testing.T) {
	for text, want := range map[string]Size{"0": 0, "5": 5 << 20, "5k": 5 << 10, "1g": 1 << 30, "unlimited": 0} {
		c, _, err := Parse("/c", []byte("spool /a\nspool-min-free-space "+text))
		if err != nil || c.Spools[0].MinFreeSpace != want {
			t.Errorf("%s: %v, %v, want %v", text, c, err, want)
		}
	}
}
