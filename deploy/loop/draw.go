package loop

import (
	"bufio"
	"encoding/json"
	"fmt"
	"image/color"
	"io"
	"maps"
	"math"
	"path/filepath"
	"slices"
	"time"

	"gonum.org/v1/plot"
	"gonum.org/v1/plot/plotter"
	"gonum.org/v1/plot/vg"
	"gonum.org/v1/plot/vg/draw"
	"gonum.org/v1/plot/vg/vgimg"
	"gonum.org/v1/plot/vg/vgsvg"

	"carom/deploy/receivers/scenarios"
)

// Colours that people with any colour vision tell apart (Okabe and Ito).
var (
	hiddenColor   = color.RGBA{R: 0x99, G: 0x99, B: 0x99, A: 0xff}
	limitColor    = color.RGBA{R: 0x00, G: 0x72, B: 0xb2, A: 0xff}
	acceptedColor = color.RGBA{R: 0x00, G: 0x9e, B: 0x73, A: 0xff}
	refusedColor  = color.RGBA{R: 0xd5, G: 0x5e, B: 0x00, A: 0xff}
)

const (
	plotWidth, plotHeight = 10 * vg.Inch, 4.5 * vg.Inch
	// smooth is what rates are averaged over: a plot has some 300 points a line.
	smooth = 6
)

// drawRun leaves the plots and the decisions of a run in a folder: NAME.svg, NAME.png and
// NAME.decisions.ndjson, and the scenario as NAME.scenario.json; with the provider in the name where there are several.
func drawRun(folder string, c *Case, r *Run) error {
	text, err := scenarioJSON(c.Scenario)
	if err != nil {
		return fmt.Errorf("encode the scenario %s: %w", c.Name, err)
	}
	err = writeFile(filepath.Join(folder, c.Name+".scenario.json"), func(out io.Writer) error {
		_, err := out.Write(text)
		return err
	})
	if err != nil {
		return err
	}
	for i, w := range r.worlds {
		name := filepath.Join(folder, c.Name)
		if len(r.worlds) > 1 {
			name += "-" + c.Scenario.Providers[i].Name
		}
		p, err := w.plot(fmt.Sprintf("%s: %s. %.1f %% of the oracle.", c.Name, c.About, r.Goodput))
		if err != nil {
			return fmt.Errorf("plot %s: %w", c.Name, err)
		}
		svg := vgsvg.New(plotWidth, plotHeight)
		p.Draw(draw.New(svg))
		png := vgimg.PngCanvas{Canvas: vgimg.NewWith(vgimg.UseWH(plotWidth, plotHeight), vgimg.UseDPI(110))}
		p.Draw(draw.New(png))
		for file, from := range map[string]io.WriterTo{name + ".svg": svg, name + ".png": png} {
			err := writeFile(file, func(out io.Writer) error {
				_, err := from.WriteTo(out)
				return err
			})
			if err != nil {
				return err
			}
		}
		if err := writeFile(name+".decisions.ndjson", w.writeDecisions); err != nil {
			return err
		}
	}
	return nil
}

// plot draws hidden limit, limit in force, accepted and refused rate over time.
func (w *world) plot(title string) (*plot.Plot, error) {
	rows := w.rows()
	p := plot.New()
	p.Title.Text, p.Title.TextStyle.Font.Size = title, 11
	p.X.Label.Text, p.Y.Label.Text = "hours", "messages a second"
	p.Legend.Top = true
	p.Add(plotter.NewGrid())

	hidden, accepted, refused := make(plotter.XYs, 0, len(rows)), plotter.XYs{}, plotter.XYs{}
	highest := 0.0
	for i := range rows {
		hidden = append(hidden, plotter.XY{X: rows[i].at.Hours(), Y: finite(rows[i].hidden)})
		if i%smooth != 0 {
			continue
		}
		var a, r float64
		part := rows[i:min(len(rows), i+smooth)]
		for _, one := range part {
			a += one.accepted / float64(len(part))
			r += one.refused / float64(len(part))
		}
		accepted = append(accepted, plotter.XY{X: rows[i].at.Hours(), Y: a})
		refused = append(refused, plotter.XY{X: rows[i].at.Hours(), Y: r})
		highest = max(highest, a, r)
	}
	limit := w.limitLine()
	for _, xy := range limit {
		highest = max(highest, min(xy.Y, 2*highest))
	}
	// What is far above all that happened would press the rest together.
	p.Y.Min, p.Y.Max = 0, 1.15*highest
	for _, line := range []plotter.XYs{hidden, limit} {
		for i := range line {
			line[i].Y = min(line[i].Y, p.Y.Max)
		}
	}
	for _, l := range []struct {
		name  string
		xys   plotter.XYs
		color color.Color
		width vg.Length
	}{
		{"hidden limit", hidden, hiddenColor, 3},
		{"accepted", accepted, acceptedColor, 1},
		{"refused", refused, refusedColor, 1},
		{"limit in force", limit, limitColor, 1.5},
	} {
		line, err := plotter.NewLine(l.xys)
		if err != nil {
			return nil, err
		}
		line.Color, line.Width = l.color, l.width
		p.Add(line)
		p.Legend.Add(l.name, line)
	}
	return p, nil
}

func finite(x float64) float64 { return min(x, math.MaxFloat32) }

// limitLine is the limit over all keys, as steps.
func (w *world) limitLine() plotter.XYs {
	var times []time.Duration
	for _, k := range w.keys {
		for _, p := range k.limits {
			times = append(times, p.at)
		}
	}
	slices.Sort(times)
	times = append(slices.Compact(times), w.end)
	var line plotter.XYs
	last := 0.0
	for i, t := range times {
		sum := 0.0
		for _, k := range w.keys {
			n, _ := slices.BinarySearchFunc(k.limits, t, func(p point, t time.Duration) int { return int(p.at - t) })
			if n == len(k.limits) || k.limits[n].at > t {
				n--
			}
			sum += finite(k.limits[n].v)
		}
		if i > 0 {
			line = append(line, plotter.XY{X: t.Hours(), Y: last})
		}
		line = append(line, plotter.XY{X: t.Hours(), Y: sum})
		last = sum
	}
	return line
}

// scenarioJSON returns a scenario as a file that scenarios.Parse reads: without the lists that are nil,
// which the strict reader refuses as null.
func scenarioJSON(s *scenarios.Scenario) ([]byte, error) {
	text, err := json.Marshal(s)
	if err != nil {
		return nil, err
	}
	var tree map[string]any
	if err := json.Unmarshal(text, &tree); err != nil {
		return nil, err
	}
	withoutNull(tree)
	return json.MarshalIndent(tree, "", "  ")
}

func withoutNull(v any) {
	switch v := v.(type) {
	case map[string]any:
		maps.DeleteFunc(v, func(_ string, value any) bool { return value == nil })
		for _, value := range v {
			withoutNull(value)
		}
	case []any:
		for _, value := range v {
			withoutNull(value)
		}
	}
}

// decision is a line of NAME.decisions.ndjson.
type decision struct {
	T         float64 `json:"t_s"`
	Key       string  `json:"key"`
	Rule      string  `json:"rule"`
	Epoch     uint64  `json:"epoch"`
	Mode      string  `json:"mode"`
	RateOld   float64 `json:"rate_old"` // -1 for no limit
	RateNew   float64 `json:"rate_new"`
	Text      string  `json:"text"`
	Replies   uint64  `json:"replies"`
	Refusals  uint64  `json:"refusals"`
	WilsonLow float64 `json:"wilson_low"`
	Accepted  float64 `json:"accepted_rate"`
	From      float64 `json:"from_s"`
	To        float64 `json:"to_s"`
}

// writeDecisions writes every change of limits with its evidence.
func (w *world) writeDecisions(out io.Writer) error {
	b := bufio.NewWriter(out)
	e := json.NewEncoder(b)
	e.SetEscapeHTML(false)
	rate := func(x float64) float64 {
		if math.IsInf(x, 1) {
			return -1
		}
		return x
	}
	for _, k := range w.keys {
		own, ok := k.own.(*loopKey)
		if !ok {
			continue
		}
		for _, c := range own.changes {
			r := &c.Reason
			err := e.Encode(decision{
				T: c.At.Seconds(), Key: k.id.String(), Rule: string(r.Rule), Epoch: r.Epoch, Mode: string(r.ModeTo),
				RateOld: rate(r.Old.RatePerSecond), RateNew: rate(r.New.RatePerSecond), Text: r.Text,
				Replies: r.Evidence.Replies, Refusals: r.Evidence.Refusals, WilsonLow: r.Evidence.WilsonLow, Accepted: r.Evidence.AcceptedRate,
				From: r.Evidence.From.Seconds(), To: r.Evidence.To.Seconds(),
			})
			if err != nil {
				return err
			}
		}
	}
	return b.Flush()
}
