package report

import (
	"bufio"
	"bytes"
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
	DupOf      string `json:"dup_of"`
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

// expected returns what the corpora's files are; it skips the test where they are not.
func expected(t *testing.T) (all []labelled) {
	t.Helper()
	file, err := os.Open(filepath.Join(corpora, "expected.jsonl"))
	if err != nil {
		t.Skip("needs the labelled corpora beside the repository:", err)
	}
	defer file.Close()
	lines := bufio.NewScanner(file)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		var l labelled
		if err := json.Unmarshal(lines.Bytes(), &l); err != nil {
			t.Fatal(err)
		}
		if l.Kind != "unknown" && l.Source != "unlabelled" {
			all = append(all, l)
		}
	}
	if err := lines.Err(); err != nil {
		t.Fatal(err)
	}
	return all
}

// TestCorpus keeps the figures of deploy/docs/reports.md true.
func TestCorpus(t *testing.T) {
	var detected, precise, kind, recall, exact, status, feedback ratio
	for _, want := range expected(t) {
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
	return parseData(t, corpusFile(t, name))
}

func corpusFile(t *testing.T, name string) []byte {
	t.Helper()
	data, err := os.ReadFile(filepath.Join(corpora, "files", name))
	if err != nil {
		t.Fatal(err)
	}
	return data
}

func parseData(t *testing.T, data []byte) Report {
	t.Helper()
	m, err := mime.Parse(data, mime.Limits{})
	if err != nil {
		t.Fatal(err)
	}
	return Parse(m)
}

// TestCorpusWithLess takes away from each bounce what readers lean on, one thing at a time: what is
// left must do.
func TestCorpusWithLess(t *testing.T) {
	all := expected(t)
	for _, tc := range []struct {
		name    string
		percent float64 // that are still detected
		less    func([]byte) []byte
	}{
		{"without a return path", 99, func(mail []byte) []byte { return without(mail, "return-path") }},
		{"without any field for machines", 99, func(mail []byte) []byte {
			return without(mail, "return-path", "auto-submitted", "x-failed-recipients", "x-mailer-daemon-recipients", "precedence")
		}},
		{"without a subject", 99, func(mail []byte) []byte { return without(mail, "subject") }},
		{"without a sender", 99, func(mail []byte) []byte { return without(mail, "from") }},
		{"without the machine part", 99, func(mail []byte) []byte {
			return regexp.MustCompile(`(?i)message/(global-)?delivery-status`).ReplaceAll(mail, []byte("application/x-unknown"))
		}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			var detected, named ratio
			for _, want := range all {
				if want.Kind != "dsn" || want.DupOf != "" {
					continue
				}
				got := parseData(t, tc.less(corpusFile(t, want.File)))
				detected.add(got.Kind == Notification)
				if got.Kind != Notification {
					t.Logf("%s: %s", want.File, got.Reason)
					continue
				}
				read := recipientsOf(got)
				for _, w := range want.Recipients {
					if w.Recipient != "" {
						named.add(slices.ContainsFunc(read, func(f found) bool { return strings.EqualFold(f.address, w.Recipient) }))
					}
				}
			}
			detected.atLeast(t, "detected", tc.percent)
			named.atLeast(t, "recipients found", 90)
		})
	}
}

// without returns mail without some fields of its header.
func without(mail []byte, names ...string) []byte {
	var kept []byte
	inHeader, skip := true, false
	for n, line := range bytes.SplitAfter(mail, []byte{'\n'}) {
		blank := len(bytes.TrimSpace(line)) == 0
		inHeader = inHeader && (!blank || n == 0)
		if inHeader && (line[0] != ' ' && line[0] != '\t') {
			name, _, _ := bytes.Cut(line, []byte{':'})
			skip = slices.Contains(names, strings.ToLower(string(name)))
		}
		if !inHeader || !skip {
			kept = append(kept, line...)
		}
	}
	return kept
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
