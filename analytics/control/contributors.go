package control

import (
	"cmp"
	"slices"
)

// contributorZ is the confidence with which a share must lie above the volume, in standard
// deviations: 99 %.
const contributorZ = 2.33

// Contribution is what one job, tenant or From domain had in the window of a decision. Several
// kinds may be in one table; each is compared within itself. A Kind "source" or "provider" holds the
// other sources and providers in the same window, which say whether the trouble is theirs.
type Contribution struct {
	Kind       string // "job", "tenant", "from_domain", "source" or "provider"
	Value      string
	Volume     uint64 // attempts
	Refusals   uint64
	User       uint64 // unknown users
	Complaints uint64
}

// Verdict says whose trouble a contributor's share is.
type Verdict string

// The verdicts.
const (
	// Ours is a contributor with surely more than its share of refusals, unknown users or
	// complaints: its mail is the cause.
	Ours Verdict = "ours"
	// Theirs is one whose share follows its volume: the receiver treats all mail alike.
	Theirs Verdict = "theirs"
)

// Contributor is a Contribution in shares, 0 to 1, of its kind.
type Contributor struct {
	Kind            string
	Value           string
	VolumeShare     float64
	RefusalShare    float64
	UserShare       float64
	ComplaintsShare float64
	Verdict         Verdict
}

// Contributors turns the counts of a window into shares and verdicts, the largest surplus first
// within a kind, and the kinds in the order of their names.
func Contributors(rows []Contribution) []Contributor {
	totals := map[string]Contribution{}
	for _, r := range rows {
		t := totals[r.Kind]
		t.Volume += r.Volume
		t.Refusals += r.Refusals
		t.User += r.User
		t.Complaints += r.Complaints
		totals[r.Kind] = t
	}
	out := make([]Contributor, 0, len(rows))
	for _, r := range rows {
		t := totals[r.Kind]
		c := Contributor{
			Kind: r.Kind, Value: r.Value, Verdict: Theirs,
			VolumeShare: share(r.Volume, t.Volume), RefusalShare: share(r.Refusals, t.Refusals),
			UserShare: share(r.User, t.User), ComplaintsShare: share(r.Complaints, t.Complaints),
		}
		if WilsonLow(r.Refusals, t.Refusals, contributorZ) > c.VolumeShare ||
			WilsonLow(r.User, t.User, contributorZ) > c.VolumeShare ||
			WilsonLow(r.Complaints, t.Complaints, contributorZ) > c.VolumeShare {
			c.Verdict = Ours
		}
		out = append(out, c)
	}
	slices.SortStableFunc(out, func(a, b Contributor) int {
		return cmp.Or(cmp.Compare(a.Kind, b.Kind), cmp.Compare(b.surplus(), a.surplus()), cmp.Compare(a.Value, b.Value))
	})
	return out
}

// surplus is how far the largest share lies above the volume.
func (c *Contributor) surplus() float64 {
	return max(c.RefusalShare, c.UserShare, c.ComplaintsShare) - c.VolumeShare
}

func share(k, n uint64) float64 {
	if n == 0 {
		return 0
	}
	return float64(k) / float64(n)
}
