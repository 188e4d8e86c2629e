package bench

import (
	"bytes"
	"encoding/json"
	"errors"
	"flag"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"carom/schemas/service"
)

func TestMedian(t *testing.T) {
	for _, tc := range []struct {
		name   string
		values []float64
		want   float64
	}{
		{"none", nil, 0},
		{"one", []float64{3}, 3},
		{"odd, unsorted", []float64{9, 1, 5}, 5},
		{"even", []float64{4, 1, 3, 2}, 2.5},
		{"one far off", []float64{10, 11, 12, 13, 9000}, 12},
	} {
		t.Run(tc.name, func(t *testing.T) {
			before := append([]float64(nil), tc.values...)
			if got := median(tc.values); got != tc.want {
				t.Errorf("median(%v) = %v, want %v", tc.values, got, tc.want)
			}
			if diff := cmp.Diff(before, tc.values); diff != "" {
				t.Errorf("median changed its argument: %s", diff)
			}
		})
	}
}

// samples returns measurements of 1000 messages with the given seconds and CPU seconds in turn.
func samples(pairs ...float64) (all []Sample) {
	for i := 0; i < len(pairs); i += 2 {
		all = append(all, Sample{Messages: 1000, Seconds: pairs[i], CPUSeconds: pairs[i+1], PeakMiB: 10})
	}
	return all
}

func TestCompare(t *testing.T) {
	m := Measured{
		Servers: []ServerResult{
			{Name: "carom", Samples: samples(0.5, 0.2, 0.4, 0.3, 50, 9)},
			{Name: "slow", Samples: samples(2, 3)},
			{Name: "fast", Samples: samples(1, 2, 1, 2)},
			{Name: "absent", Skipped: "it is not installed"},
		},
	}
	m.compare()
	m.judge([]Target{{Figure: rateRatio, AtLeast: 2.5}, {Figure: cpuRatio, AtMost: 0.1}, {Figure: cpuRatio, AtMost: 0.15}, {Figure: rateRatio, AtLeast: 2}})
	if m.Servers[0].Rate != 2000 || m.Servers[0].CPUPer1000 != 0.3 || m.Servers[0].PeakMiB != 10 {
		t.Errorf("medians of carom: %+v, want 2000/s, 0.3 CPU s and 10 MiB", m.Servers[0])
	}
	if m.Best != "fast" {
		t.Errorf("best peer %q, want fast", m.Best)
	}
	want := []string{
		"rate ratio 2.00, wanted at least 2.50: missed", "cpu ratio 0.15, wanted at most 0.10: missed",
		"cpu ratio 0.15, wanted at most 0.15: reached", "rate ratio 2.00, wanted at least 2.00: reached",
	}
	if diff := cmp.Diff(want, verdicts(m)); diff != "" {
		t.Errorf("verdicts: %s", diff)
	}
}

func verdicts(m Measured) (lines []string) {
	for _, v := range m.Verdicts {
		lines = append(lines, v.String())
	}
	return lines
}

func TestJudge(t *testing.T) {
	targets := []Target{{Figure: "memory", AtMost: 500}, {Figure: "sign rate", AtLeast: 0.85}, {Figure: "forgotten", AtMost: 1}}
	for _, tc := range []struct {
		name, small string
		memory      []float64
		want        []string
	}{
		{"enough", "", []float64{400, 9000, 500}, []string{"memory 500 MB, wanted at most 500 MB: reached"}},
		{"too much", "", []float64{501}, []string{"memory 501 MB, wanted at most 500 MB: missed"}},
		{"a small run", "with 2000 messages", []float64{20}, []string{"memory 20.0 MB, wanted at most 500 MB: not judged (with 2000 messages)"}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			m := Measured{Small: tc.small}
			for _, v := range tc.memory {
				m.add("memory", "MB", v)
			}
			m.skip("sign rate", "no openssl")
			m.summarise()
			m.judge(targets)
			tc.want = append(tc.want, "sign rate, wanted at least 0.85: not measured (no openssl)", "forgotten, wanted at most 1.00: not measured")
			if diff := cmp.Diff(tc.want, verdicts(m)); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func TestCompareWithoutPeers(t *testing.T) {
	m := Measured{Servers: []ServerResult{{Name: "carom", Samples: samples(1, 1)}, {Name: "absent", Skipped: "no such thing"}}}
	m.compare()
	m.judge([]Target{{Figure: rateRatio, AtLeast: 10}})
	if m.Best != "" || m.Servers[0].Rate != 1000 || m.Verdicts[0].Result != undone {
		t.Errorf("got %+v, want carom's figures and a target that was not measured", m)
	}
	var out bytes.Buffer
	if err := (Result{Scenarios: []Measured{m}}).print(&out); err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(out.String(), "absent was skipped: no such thing") {
		t.Errorf("the table does not say why a peer is missing:\n%s", out.String())
	}
}

func TestPrint(t *testing.T) {
	relay := Measured{
		Name: "relay", About: "hand on", Sessions: 40, Bytes: 4096, Runs: 1,
		Servers: []ServerResult{{Name: "carom", Samples: samples(0.25, 0.5)}, {Name: "peer", Samples: samples(1, 2)}},
	}
	relay.compare()
	relay.judge([]Target{{Figure: rateRatio, AtLeast: 2}})
	wait := Measured{Name: "wait", About: "keep", Messages: 5000, Runs: 3, Small: "too few"}
	wait.add("memory", "MB", 51)
	wait.add("restart", "s", 1.25)
	wait.add("slower", "", 7)
	wait.skip("signs", "no key")
	wait.summarise()
	wait.judge([]Target{{Figure: "memory", AtMost: 500}, {Figure: "signs", AtLeast: 1}})
	r := Result{Machine: Machine{CPUs: 2, Kernel: "6.1", Go: "go1", FileSystem: "tmpfs", LoadBefore: "1 1 1", LoadAfter: "2 1 1"}, Scenarios: []Measured{relay, wait}}
	var out bytes.Buffer
	if err := r.print(&out); err != nil {
		t.Fatal(err)
	}
	want := `2 CPUs, kernel 6.1, tmpfs, go1; load average 1 1 1 before, 2 1 1 after
The folder is in memory (tmpfs): fsync costs nothing there. Use --dir.
The machine was busy before the run: rates are too low, and ratios uncertain.

relay: hand on
4096 bytes, 40 sessions, medians of 1
   server   msg/s   ratio   CPU s/1000   ratio   peak MiB
    carom    4000    4.00        0.500    0.25         10
     peer    1000    1.00        2.000    1.00         10
rate ratio 4.00, wanted at least 2.00: reached

wait: keep
5000 messages, medians of 3
    memory                   51.0   MB
   restart                   1.25    s
    slower                   7.00
     signs   not measured: no key
memory 51.0 MB, wanted at most 500 MB: not judged (too few)
signs, wanted at least 1.00: not measured (no key)

Targets: 3, 1 reached, 1 not judged, 1 not measured
`
	if diff := cmp.Diff(want, out.String()); diff != "" {
		t.Error(diff)
	}
}

func TestBusy(t *testing.T) {
	for _, tc := range []struct {
		load string
		cpus int
		want bool
	}{{"0.10 3.00 9.00", 2, false}, {"0.51 0.00 0.00", 2, true}, {"0.51 0.00 0.00", 8, false}, {"", 2, false}} {
		if got := busy(tc.load, tc.cpus); got != tc.want {
			t.Errorf("busy(%q, %d) = %v, want %v", tc.load, tc.cpus, got, tc.want)
		}
	}
}

func TestResultAsJSON(t *testing.T) {
	r := Result{Options: options{Runs: 5, Seconds: 2}, Scenarios: []Measured{{Name: "relay", Servers: []ServerResult{{Name: "carom", Samples: samples(1, 2)}}}}}
	r.Scenarios[0].summarise()
	var out bytes.Buffer
	if err := writeJSON(&out, r); err != nil {
		t.Fatal(err)
	}
	var got struct {
		Options   struct{ Runs int }
		Scenarios []struct {
			Servers []struct {
				Rate float64 `json:"messages_per_second"`
				CPU  float64 `json:"cpu_seconds_per_1000"`
			}
		}
	}
	if err := json.Unmarshal(out.Bytes(), &got); err != nil {
		t.Fatal(err)
	}
	if got.Options.Runs != 5 || got.Scenarios[0].Servers[0].Rate != 1000 || got.Scenarios[0].Servers[0].CPU != 2 {
		t.Errorf("got %+v from\n%s", got, out.String())
	}
}

func TestParseStat(t *testing.T) {
	const rest = " S 7 40 40 0 -1 4194560 1 2 3 4 150 50 30 20 20 0 1 0 100 1000 5 18446744073709551615\n"
	for _, tc := range []struct {
		name, text string
		want       stat
		bad        bool
	}{
		{"usual", "42 (smtpd)" + rest, stat{pid: 42, parent: 7, own: 2 * time.Second, children: 500 * time.Millisecond}, false},
		{"blanks and parentheses in the name", "42 (a) R 1 (b c)" + rest, stat{pid: 42, parent: 7, own: 2 * time.Second, children: 500 * time.Millisecond}, false},
		{"no name", "42 smtpd S 7", stat{}, true},
		{"cut off", "42 (smtpd) S 7 40", stat{}, true},
		{"not a number", "42 (smtpd) S x" + rest, stat{}, true},
		{"no process id", "x (smtpd)" + rest, stat{}, true},
		{"parentheses the wrong way", ")(", stat{}, true},
		{"empty", "", stat{}, true},
	} {
		t.Run(tc.name, func(t *testing.T) {
			got, err := parseStat([]byte(tc.text))
			if (err != nil) != tc.bad {
				t.Fatalf("parseStat(%q): error %v, want one: %v", tc.text, err, tc.bad)
			}
			if err == nil && got != tc.want {
				t.Errorf("parseStat(%q) = %+v, want %+v", tc.text, got, tc.want)
			}
		})
	}
}

func TestParsePSS(t *testing.T) {
	got, err := parsePSS([]byte("560000000000-7fff00000000 ---p 00000000 00:00 0  [rollup]\nRss:   9000 kB\nPss:     1234 kB\nPss_Dirty:   7 kB\n"))
	if err != nil || got != 1234<<10 {
		t.Errorf("got %d, %v; want 1234 KiB", got, err)
	}
	for _, text := range []string{"", "Rss: 1 kB\n", "Pss: many kB\n"} {
		if got, err := parsePSS([]byte(text)); err == nil {
			t.Errorf("parsePSS(%q) = %d, want an error", text, got)
		}
	}
}

func TestTreeHoldsAllDescendants(t *testing.T) {
	all := []stat{{pid: 1}, {pid: 9, parent: 5}, {pid: 5, parent: 3}, {pid: 3, parent: 1}, {pid: 4, parent: 1}, {pid: 6, parent: 3}}
	var got []int
	for _, s := range tree(all, 3) {
		got = append(got, s.pid)
	}
	if diff := cmp.Diff([]int{3, 5, 6, 9}, got); diff != "" {
		t.Errorf("processes below 3: %s", diff)
	}
	if got := tree(all, 77); len(got) != 0 {
		t.Errorf("a process that is not there has %v", got)
	}
}

func TestUsageOfThisProcess(t *testing.T) {
	if _, err := os.Stat("/proc/self/smaps_rollup"); err != nil {
		t.Skipf("this kernel does not tell the memory of a process: %v", err)
	}
	own, err := processUsage(os.Getpid())
	if err != nil {
		t.Fatal(err)
	}
	all, err := treeUsage(os.Getpid())
	if err != nil {
		t.Fatal(err)
	}
	if own.memory < 1<<20 || all.memory < 1<<20 || all.cpu < own.cpu {
		t.Errorf("alone %+v, with children %+v", own, all)
	}
}

func TestLastCount(t *testing.T) {
	for _, tc := range []struct {
		name, text string
		want       int
	}{
		{"nothing yet", "", 0},
		{"first", "sess=1 quit=0 mesg=0\r", 0},
		{"several", "sess=1 quit=0 mesg=9\rsess=40 quit=1 mesg=1234\r", 1234},
		{"the last is cut off", "sess=1 quit=0 mesg=99\rsess=1 quit=0 mesg=10", 99},
		{"begins in the middle", "t=0 mesg=5\rsess=4 quit=0 mesg=6\rse", 6},
		{"another word", "hello\r", 0},
		{"no number", "mesg=x\r", 0},
	} {
		t.Run(tc.name, func(t *testing.T) {
			if got := lastCount([]byte(tc.text)); got != tc.want {
				t.Errorf("lastCount(%q) = %d, want %d", tc.text, got, tc.want)
			}
		})
	}
}

func TestFileSystem(t *testing.T) {
	const mounts = "/dev/vda / ext4 rw 0 0\ntmpfs /tmp tmpfs rw 0 0\n/dev/vdb /tmp/disk xfs rw 0 0\nshort\n"
	for dir, want := range map[string]string{"/var/spool": "ext4", "/tmp": "tmpfs", "/tmp/x": "tmpfs", "/tmpfoo": "ext4", "/tmp/disk/x": "xfs"} {
		if got := fileSystem(mounts, dir); got != want {
			t.Errorf("fileSystem of %s = %q, want %q", dir, got, want)
		}
	}
}

func TestMistakesInFlags(t *testing.T) {
	for _, args := range [][]string{{"no-such-scenario"}, {"--runs", "0"}, {"--seconds", "0"}, {"--messages", "5"}, {"--no-such-flag"}} {
		var out bytes.Buffer
		err := Command(t.Context(), args, service.IO{In: strings.NewReader(""), Out: &out, Err: &out})
		if _, ok := errors.AsType[*service.ConfigError](err); !ok {
			t.Errorf("carom bench %v: %v, want a ConfigError", args, err)
		}
	}
}

func TestHelpNamesEveryScenario(t *testing.T) {
	var out bytes.Buffer
	err := Command(t.Context(), []string{"--help"}, service.IO{In: strings.NewReader(""), Out: &out, Err: &out})
	if !errors.Is(err, flag.ErrHelp) {
		t.Fatalf("--help: %v, want flag.ErrHelp", err)
	}
	for _, s := range scenarios {
		if !strings.Contains(out.String(), "  "+s.Name) || !strings.Contains(out.String(), s.About) {
			t.Errorf("--help does not tell of %s", s.Name)
		}
	}
}

func TestList(t *testing.T) {
	var out bytes.Buffer
	if err := Command(t.Context(), []string{"--list"}, service.IO{In: strings.NewReader(""), Out: &out, Err: &out}); err != nil {
		t.Fatal(err)
	}
	if lines := strings.Count(out.String(), "\n"); lines != len(scenarios) || !strings.HasPrefix(out.String(), "  relay-4k  ") {
		t.Errorf("--list prints %d lines, want %d:\n%s", lines, len(scenarios), out.String())
	}
}

func TestParseSpeed(t *testing.T) {
	const version3 = "version: 3.0.19\nbuilt on: Fri Apr  3 12:29:32 2026 UTC\n                  sign    verify    sign/s verify/s\n" +
		"rsa 2048 bits 0.000947s 0.000024s   1056.0  42049.0\n"
	if got, err := parseSpeed([]byte(version3)); err != nil || got != 1056 {
		t.Errorf("got %v, %v; want 1056", got, err)
	}
	for _, text := range []string{"", "rsa 2048 bits", "rsa 4096 bits 0.1s 0.1s 10.0 400.0", "rsa 2048 bits 0.1s 0.1s many 400.0"} {
		if got, err := parseSpeed([]byte(text)); err == nil {
			t.Errorf("parseSpeed(%q) = %v, want an error", text, got)
		}
	}
}
