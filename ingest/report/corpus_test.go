package report

import (
	"bufio"
	"encoding/json"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"carom/ingest/mime"
)

// corpora is where the labelled reports are, which are no part of the repository.
const corpora = "../../../shared/corpora"

type labelled struct {
	File       string `json:"file"`
	Kind       string `json:"kind"`
	Source     string `json:"label_source"`
	Partial    bool   `json:"partial"`
	Recipients []struct {
		Recipient string   `json:"recipient"`
		Others    []string `json:"recipient_alt"`
		Status    string   `json:"status"`
		Statuses  []string `json:"status_alt"`
		Type      string   `json:"feedbacktype"`
	} `json:"recipients"`
}

// found is a recipient that was read.
type found struct{ address, status, feedback string }

// pseudo are statuses that the labels of one corpus invent.
var pseudo = regexp.MustCompile(`^[245]\.0\.9\d\d$`)

// ratio counts what is right.
type ratio struct{ right, of int }

func (r *ratio) add(right bool) {
	r.of++
	if right {
		r.right++
	}
}

func (r *ratio) atLeast(t *testing.T, what string, percent float64) {
	t.Helper()
	got := 100 * float64(r.right) / float64(r.of)
	t.Logf("%s: %d of %d, %.1f %%", what, r.right, r.of, got)
	if r.of == 0 || got < percent {
		t.Errorf("%s: %.1f %%, want %.1f %%", what, got, percent)
	}
}

// TestCorpus keeps the figures of deploy/docs/reports.md true.
func TestCorpus(t *testing.T) {
	file, err := os.Open(filepath.Join(corpora, "expected.jsonl"))
	if err != nil {
		t.Skip("needs the labelled corpora beside the repository:", err)
	}
	defer file.Close()
	var detected, precise, kind, recall, exact, status, feedback ratio
	lines := bufio.NewScanner(file)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		var want labelled
		if err := json.Unmarshal(lines.Bytes(), &want); err != nil {
			t.Fatal(err)
		}
		if want.Kind == "unknown" || want.Source == "unlabelled" {
			continue
		}
		report := want.Kind == "dsn" || want.Kind == "arf"
		got := readCorpus(t, want.File)
		is := got.Kind == Notification || got.Kind == Feedback
		if report {
			detected.add(is)
		}
		if is {
			precise.add(report)
		}
		if !report || !is {
			continue
		}
		kind.add(string(got.Kind) == want.Kind)
		read := recipientsOf(got)
		named := 0
		for i, w := range want.Recipients {
			at := slices.IndexFunc(read, func(f found) bool {
				return f.address != "" && (strings.EqualFold(f.address, w.Recipient) || slices.ContainsFunc(w.Others, func(o string) bool { return strings.EqualFold(f.address, o) }))
			})
			if w.Recipient != "" || len(w.Others) > 0 {
				recall.add(at >= 0)
				if named++; at >= 0 {
					exact.right++
				}
			}
			if at < 0 {
				at = min(i, len(read)-1)
			}
			if want.Kind == "dsn" && w.Status != "" && !pseudo.MatchString(w.Status) {
				status.add(at >= 0 && (read[at].status == w.Status || slices.Contains(w.Statuses, read[at].status)))
			}
			if want.Kind == "arf" && w.Type != "" {
				feedback.add(at >= 0 && read[at].feedback == w.Type)
			}
		}
		if named > 0 && !want.Partial {
			exact.of += max(named, len(read))
		}
	}
	if err := lines.Err(); err != nil {
		t.Fatal(err)
	}
	detected.atLeast(t, "reports detected", 99.5)
	precise.atLeast(t, "of what is detected, reports", 99.5)
	kind.atLeast(t, "kind", 100)
	recall.atLeast(t, "recipients found", 98.5)
	exact.atLeast(t, "of recipients, wanted", 97.5)
	status.atLeast(t, "status", 98.5)
	feedback.atLeast(t, "feedback type", 100)
}

func readCorpus(t *testing.T, name string) Report {
	t.Helper()
	data, err := os.ReadFile(filepath.Join(corpora, "files", name))
	if err != nil {
		t.Fatal(err)
	}
	m, err := mime.Parse(data, mime.Limits{})
	if err != nil {
		t.Fatal(err)
	}
	return Parse(m)
}

func recipientsOf(r Report) (all []found) {
	if r.Feedback != nil {
		for _, a := range r.Feedback.Recipients() {
			all = append(all, found{address: a, feedback: string(r.Feedback.Type)})
		}
		if all == nil {
			all = []found{{feedback: string(r.Feedback.Type)}}
		}
		return all
	}
	for _, rcpt := range r.Notification.Recipients {
		address := rcpt.Final
		if address == "" {
			address = rcpt.Original
		}
		all = append(all, found{address: address, status: rcpt.Status.String()})
	}
	return all
}
