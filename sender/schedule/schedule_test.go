package schedule

import (
	"strings"
	"testing"
	"time"
)

func at(text string) time.Time {
	t, err := time.Parse(layout, text)
	if err != nil {
		panic(err)
	}
	return t
}

func TestNext(t *testing.T) {
	s, err := Parse("2026-11-30 08:00:00/2026-11-30 18:00:00,\r\n 2026-11-29 08:00:00 / 2026-11-29 18:00:00 , 2026-11-29 17:00:00 / 2026-11-29 20:00:00+0100", time.UTC)
	if err != nil {
		t.Fatal(err)
	}
	for _, tc := range []struct{ from, want string }{
		{"2026-11-01 00:00:00", "2026-11-29 08:00:00"},
		{"2026-11-29 08:00:00", "2026-11-29 08:00:00"},
		{"2026-11-29 17:59:59", "2026-11-29 17:59:59"},
		{"2026-11-29 18:30:00", "2026-11-29 18:30:00"}, // until 19:00 UTC
		{"2026-11-29 19:00:00", "2026-11-30 08:00:00"},
		{"2026-11-30 18:00:00", ""},
	} {
		got, ok := s.Next(at(tc.from))
		if ok != (tc.want != "") || ok && !got.Equal(at(tc.want)) {
			t.Errorf("Next(%s) = %s, %t; want %q", tc.from, got, ok, tc.want)
		}
	}
	if got := s.End(); !got.Equal(at("2026-11-30 18:00:00")) {
		t.Errorf("End: %s", got)
	}
	now := at("2026-11-29 12:00:00")
	if got, ok := Schedule(nil).Next(now); !ok || !got.Equal(now) {
		t.Errorf("without windows: %s, %t", got, ok)
	}
}

func TestZone(t *testing.T) {
	s, err := Parse("2026-11-29 08:00:00 / 2026-11-29 18:00:00 -0500", time.FixedZone("here", 3600))
	if err != nil || !s[0].From.Equal(at("2026-11-29 07:00:00")) || !s[0].To.Equal(at("2026-11-29 23:00:00")) {
		t.Errorf("%v, %v", s, err)
	}
}

func TestParseErrors(t *testing.T) {
	one := "2026-11-29 08:00:00 / 2026-11-29 18:00:00"
	for _, text := range []string{
		"", "x", "2026-11-29 08:00:00", one + ",", "2026-11-29 18:00:00 / 2026-11-29 08:00:00", "2026-11-29 08:00 / 2026-11-29 18:00",
		"0001-01-01 00:00:00 / 2026-11-29 18:00:00", strings.Repeat(one+",", 50) + one, strings.Repeat(" ", 5000) + one,
	} {
		if s, err := Parse(text, time.UTC); err == nil {
			t.Errorf("Parse(%.60q) = %v", text, s)
		}
	}
}

func FuzzParse(f *testing.F) {
	f.Add("2026-11-29 08:00:00 / 2026-11-29 18:00:00")
	f.Add("2026-11-29 08:00:00+0100/2026-11-29 18:00:00 -0500,x")
	f.Fuzz(func(t *testing.T, text string) {
		s, err := Parse(text, time.UTC)
		if err != nil {
			return
		}
		again, err := Parse(s.String(), time.FixedZone("", 3600))
		if err != nil || again.String() != s.String() || !again.End().Equal(s.End()) {
			t.Errorf("Parse(%q) = %q, then %q, %v", text, s, again, err)
		}
	})
}
