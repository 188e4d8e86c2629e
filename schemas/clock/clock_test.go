package clock

import (
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// scaled sets the scale for one test.
func scaled(t *testing.T, value string) {
	t.Helper()
	t.Cleanup(func() { process = setting{scale: 1} })
	if err := Parse(value); err != nil {
		t.Fatal(err)
	}
}

func TestWithoutAScaleItIsTheMachinesTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		if Value() != "" || Scale() != 1 || !Now().Equal(time.Now()) || Real(time.Hour) != time.Hour || Scaled(time.Hour) != time.Hour {
			t.Errorf("value %q, scale %d, now %s", Value(), Scale(), Now())
		}
	})
}

func TestTimePassesFaster(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		origin := time.Now().Add(-time.Minute)
		scaled(t, "20@"+origin.Format(time.RFC3339Nano))
		if got := Since(origin); got != 20*time.Minute {
			t.Errorf("%v passed in the first minute, want 20 min", got)
		}
		before, real := Now(), time.Now()
		<-NewTimer(time.Hour).C
		if got := time.Since(real); got != 3*time.Minute {
			t.Errorf("an hour took %v, want 3 min", got)
		}
		if got := Since(before); got != time.Hour {
			t.Errorf("%v passed in an hour", got)
		}
		if got := Until(before); got != -time.Hour {
			t.Errorf("%v until an hour ago", got)
		}
	})
}

// Processes that are started one after another live in the same time.
func TestValueGivesAnotherProcessTheSameTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		scaled(t, "20")
		value, before := Value(), Now()
		time.Sleep(time.Second)
		process = setting{scale: 1}
		scaled(t, value)
		if got := Since(before); got != 20*time.Second {
			t.Errorf("the second process is %v later, want 20 s", got)
		}
	})
}

func TestParseRefuses(t *testing.T) {
	for _, tc := range []struct{ value, want string }{
		{"0", "want 1"},
		{"101", "want 1"},
		{"fast", "whole number"},
		{"", "whole number"},
		{"20@yesterday", "origin"},
		{"20@2001-01-01T00:00:00Z", "two days"},
		{"20@2999-01-01T00:00:00Z", "two days"},
	} {
		if err := Parse(tc.value); err == nil || !strings.Contains(err.Error(), tc.want) {
			t.Errorf("Parse(%q) gives %v, want an error with %q", tc.value, err, tc.want)
		}
	}
	if Scale() != 1 {
		t.Errorf("a mistake set the scale to %d", Scale())
	}
}
