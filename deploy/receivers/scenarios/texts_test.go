package scenarios_test

import (
	"slices"
	"testing"

	"carom/deploy/receivers/scenarios"
	"carom/ingest/classify"
	"carom/schemas/event"
	"carom/schemas/smtpstatus"
	"carom/schemas/taxonomy"
)

// dimensions are what the classifier may make of the reply texts of a class. Some receivers call a
// block a rate limit, and the other way round; and when a receiver is busy that may be about us.
var dimensions = map[string][]taxonomy.Dimension{
	"RATE":  {taxonomy.Rate, taxonomy.Block},
	"CONN":  {taxonomy.Connections},
	"MSGC":  {taxonomy.Messages},
	"BLOCK": {taxonomy.Block, taxonomy.Content},
	"GREY":  {taxonomy.Greylist},
	"UNAV":  {taxonomy.Unavailable, taxonomy.Other, taxonomy.Rate},
	"USER":  {taxonomy.User},
}

// TestTextsAreUnderstood: the providers that come with carom speak as real ones do, so whoever tries
// carom against them sees what the classifier makes of real replies.
func TestTextsAreUnderstood(t *testing.T) {
	for _, name := range scenarios.Names() {
		s, err := scenarios.Open(name)
		if err != nil {
			t.Fatal(err)
		}
		for _, p := range s.Providers {
			for class, text := range p.Texts {
				want, judged := dimensions[class]
				if !judged {
					continue
				}
				reply := smtpstatus.Parse(text)
				phase := event.PhaseRcpt
				if class == "CONN" {
					phase = event.PhaseGreeting
				}
				v := classify.Classify(classify.Input{Reply: reply, Phase: phase})
				if !slices.Contains(want, v.Dimension) {
					t.Errorf("%s, %s %s: dimension %s by %s, want one of %v: %q", name, p.Name, class, v.Dimension, v.Rule, want, text)
				}
			}
		}
	}
}

// TestProvidersComeWithCarom: the styles that people ask for first.
func TestProvidersComeWithCarom(t *testing.T) {
	for _, name := range []string{"gmail", "outlook", "yahoo", "apple", "comcast", "european-isp", "greylister", "small-business"} {
		if !slices.Contains(scenarios.Names(), name) {
			t.Errorf("there is no scenario %q", name)
		}
	}
}
