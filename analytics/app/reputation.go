package app

import (
	"context"
	"fmt"
	"io"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/ClickHouse/clickhouse-go/v2"
	"github.com/ClickHouse/clickhouse-go/v2/lib/driver"

	"carom/analytics/reputation"
	"carom/schemas/service"
	"carom/schemas/warehouse"
)

const aboutReputation = `carom reputation shows how receivers take what is sent: a score from 0 to 100, its
band (high, medium, low, bad; unknown with too few answers) and what it comes from.

  carom reputation list          the last scores, the worst first
  carom reputation explain KEY   one score with its numbers

A KEY says of what: key:PROVIDER/SOURCE, tenant:PROVIDER/TENANT, source:ADDRESS,
provider:NAME, sender:DOMAIN (DKIM or From domain) or recipient:DOMAIN. Without
the word before the colon it is everything of that name.

The job reputation of carom analytics computes scores every five minutes.

Example:
  carom reputation list --provider google --kind tenant
  carom reputation explain sender:news.example.com`

// ReputationCommand runs carom reputation list or explain.
func ReputationCommand(ctx context.Context, args []string, stdio service.IO) error {
	verb, args := cutVerb(args)
	flags := service.NewFlags(name("reputation", verb), aboutReputation, stdio)
	rawURL, login := warehouse.Flags(flags)
	asJSON := flags.Bool("json", false, "write the result as JSON")
	provider := flags.String("provider", "", "`name` of a provider, with list; without it all")
	kind := flags.String("kind", "", "`word`: "+strings.Join(reputation.Kinds, ", ")+", with list; without it all")
	last := flags.Uint("last", 50, "`number` of scores to list")
	plain, err := parseMixed(flags, args)
	if err != nil {
		return err
	}
	wanted, who := *kind, ""
	switch {
	case *kind != "" && !slices.Contains(reputation.Kinds, *kind):
		return service.Configf("carom reputation: no kind %q: want %s", *kind, strings.Join(reputation.Kinds, ", "))
	case verb == "list" && len(plain) == 0 && *last > 0 && *last <= 1_000_000:
	case verb == "list" && len(plain) == 0:
		return service.Configf("carom reputation list: --last is %d, want 1 to 1000000", *last)
	case verb == "explain" && len(plain) == 1:
		if wanted, who, err = reputation.ParseKey(plain[0]); err != nil {
			return service.Configf("carom reputation explain: %w", err)
		}
	case verb == "explain":
		return service.Configf("carom reputation explain: want one key, for example key:google/192.0.2.1 (see carom reputation list)")
	default:
		return service.Configf("carom reputation %s: want list or explain KEY (see carom reputation --help)", strings.Join(append([]string{verb}, plain...), " "))
	}
	conn, err := warehouse.Open(ctx, *rawURL, *login)
	if err != nil {
		return err
	}
	defer func() { _ = conn.Close() }() // only read
	if err := warehouse.Check(ctx, conn); err != nil {
		return err
	}
	scores, err := readScores(ctx, conn, wanted, *provider, who, *last)
	switch {
	case err != nil:
		return err
	case verb == "explain" && len(scores) == 0:
		return service.Configf("carom reputation explain: there is no score of %s in the last day (see carom reputation list; is the job reputation running?)", plain[0])
	case verb == "list":
		return show(stdio.Out, scores, *asJSON, func(w io.Writer) error { return scoresText(w, scores) })
	}
	return show(stdio.Out, scores, *asJSON, func(w io.Writer) error { return scoreText(w, scores) })
}

// scoreOf is a stored score.
type scoreOf struct {
	Key            string    `json:"key"`
	Time           time.Time `json:"time"`
	Score          float64   `json:"score"`
	ScoreHigh      float64   `json:"score_high"` // surely not above it
	Band           string    `json:"band"`
	BandSince      time.Time `json:"band_since"`
	Toward         string    `json:"toward,omitempty"`
	Answers        float64   `json:"n_eff"`
	Confidence     float64   `json:"confidence"`
	AttemptsPerDay float64   `json:"attempts_per_day"`
	Feedback       string    `json:"feedback"`
	Capped         string    `json:"capped,omitempty"`
	Worst          string    `json:"worst"`

	Components []reputation.Component `json:"components"`
}

func readScores(ctx context.Context, conn driver.Conn, kind, provider, who string, last uint) ([]scoreOf, error) {
	ctx = clickhouse.Context(ctx, clickhouse.WithParameters(clickhouse.Parameters{
		"kind": kind, "provider": parameter.Replace(provider), "who": parameter.Replace(who), "last": fmt.Sprint(last),
	}))
	rows, err := conn.Query(ctx, `
SELECT kind_, who_, ts, score, score_high, band, band_since, toward, n_eff, confidence, attempts_per_day, feedback, capped, worst, components, k, n, r0, r, low, high, sub, fast
FROM (
    SELECT *, toString(kind) AS kind_, multiIf(kind IN ('key', 'tenant'), concat(provider, '/', name), kind = 'provider', toString(provider), toString(name)) AS who_
    FROM reputation
    WHERE ts > now64(6, 'UTC') - INTERVAL 1 DAY AND ({kind:String} = '' OR toString(kind) = {kind:String}) AND ({provider:String} = '' OR provider = {provider:String})
    ORDER BY ts DESC
    LIMIT 1 BY kind, provider, name
)
WHERE {who:String} = '' OR who_ = {who:String}
ORDER BY band = 'unknown', score, kind_, who_
LIMIT {last:UInt32}`)
	if err != nil {
		return nil, fmt.Errorf("read reputation: %w", err)
	}
	all := []scoreOf{}
	err = each(rows, func() error {
		var s scoreOf
		var kind, who string
		var words []string
		var k, n, r0, r, low, high, sub []float64
		var fast []bool
		if err := rows.Scan(&kind, &who, &s.Time, &s.Score, &s.ScoreHigh, &s.Band, &s.BandSince, &s.Toward, &s.Answers, &s.Confidence, &s.AttemptsPerDay, &s.Feedback, &s.Capped, &s.Worst,
			&words, &k, &n, &r0, &r, &low, &high, &sub, &fast); err != nil {
			return err
		}
		s.Key = kind + ":" + who
		for i, word := range words {
			s.Components = append(s.Components, reputation.Component{Name: word, K: k[i], N: n[i], R0: r0[i], R: r[i], Low: low[i], High: high[i], Sub: sub[i], Fast: fast[i]})
		}
		all = append(all, s)
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("read reputation: %w", err)
	}
	return all, nil
}

func scoresText(w io.Writer, all []scoreOf) error {
	if len(all) == 0 {
		_, err := fmt.Fprintln(w, "There are no scores of the last day: the job reputation of carom analytics computes them.")
		return err
	}
	table := tabwriter.NewWriter(w, 0, 4, 2, ' ', 0)
	_, _ = fmt.Fprintln(table, "KEY\tSCORE\tBAND\tSINCE\tWORST\tSHARE\tANSWERS\tCONFIDENCE\tCOMPLAINTS") // Flush tells of an error
	for i := range all {
		s := &all[i]
		_, _ = fmt.Fprintf(table, "%s\t%.0f\t%s\t%s\t%s\t%s\t%.0f\t%.2f\t%s\n", printable(s.Key), s.Score, s.Band, s.BandSince.UTC().Format(time.DateTime), orDash(s.Worst),
			s.worstShare(), s.Answers, s.Confidence, s.Feedback)
	}
	return table.Flush()
}

// worstShare is the share of the component that costs most.
func (s *scoreOf) worstShare() string {
	for _, c := range s.Components {
		if c.Name == s.Worst {
			return percentText(c.R)
		}
	}
	return "-"
}

func percentText(share float64) string { return number(100*share) + " %" }

// advice is what a person may do about a component that costs most: one action each.
var advice = map[string]string{
	reputation.Complaints:   "Find the job or From domain that is complained about (carom reputation list --kind tenant, --kind sender), and stop it or clean its list.",
	reputation.UnknownUsers: "Clean the list: suppress what bounced (the job suppression does), and ask where new addresses come from.",
	reputation.Blocks:       "Read the replies (carom limits explain): they name a block list or a form where to ask for removal.",
	reputation.Refusals:     "Nothing at once: the loop lowers the rate. If it comes back each day, lower max-msg-rate or spread the mail.",
}

func scoreText(w io.Writer, all []scoreOf) error {
	var b strings.Builder
	for i := range all {
		s := &all[i]
		if i > 0 {
			b.WriteByte('\n')
		}
		fmt.Fprintf(&b, "%s  score %.1f, band %s since %s (computed %s)\n", printable(s.Key), s.Score, s.Band, s.BandSince.UTC().Format(time.DateTime), s.Time.UTC().Format(time.DateTime))
		fmt.Fprintf(&b, "  stands on %.0f answers, %.0f attempts a day; with 90 %% certainty not above %.1f; confidence %.2f\n", s.Answers, s.AttemptsPerDay, s.ScoreHigh, s.Confidence)
		if s.Toward != "" {
			fmt.Fprintf(&b, "  on its way to the band %s\n", s.Toward)
		}
		if s.Capped != "" {
			fmt.Fprintf(&b, "  bounded, because of a reply of the last day: %s\n", s.Capped)
		}
		switch s.Feedback {
		case string(reputation.Silent):
			b.WriteString("  complaints are unknown: the feedback loop fell silent\n")
		case string(reputation.None):
			b.WriteString("  complaints are unknown: no feedback loop\n")
		}
		for _, c := range s.Components {
			span := "days"
			if c.Fast {
				span = "last hour"
			}
			worst := ""
			if c.Name == s.Worst {
				worst = "  <- costs most"
			}
			fmt.Fprintf(&b, "  %-13s %s of %s (%s), expected %s: %s, 80 %% between %s and %s; sub-score %.2f%s\n", c.Name, number(c.K), number(c.N), span, percentText(c.R0),
				percentText(c.R), percentText(c.Low), percentText(c.High), c.Sub, worst)
		}
		suggestion := "Nothing."
		if s.Score < 80 && advice[s.Worst] != "" {
			suggestion = advice[s.Worst]
		}
		fmt.Fprintf(&b, "  suggestion: %s\n", suggestion)
	}
	_, err := io.WriteString(w, b.String())
	return err
}
