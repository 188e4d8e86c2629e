package bench

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"
)

// usage is what processes have used.
type usage struct {
	cpu    time.Duration // user and system time
	memory int64         // bytes, proportional set size
}

// clockTick is the unit of times in /proc: USER_HZ, which is 100 on every architecture that Go runs on.
const clockTick = time.Second / 100

// stat is what is used of /proc/PID/stat (proc(5)).
type stat struct {
	pid, parent int
	own         time.Duration // utime and stime
	children    time.Duration // cutime and cstime: of children that ended and were waited for
}

// parseStat parses the content of /proc/PID/stat. The name of the program is in parentheses and
// may hold anything, parentheses and blanks too.
func parseStat(text []byte) (stat, error) {
	open, end := bytes.IndexByte(text, '('), bytes.LastIndexByte(text, ')')
	if open < 0 || end < open {
		return stat{}, fmt.Errorf("no program name in %q", text)
	}
	pid, err := strconv.Atoi(strings.TrimSpace(string(text[:open])))
	if err != nil {
		return stat{}, fmt.Errorf("process id in %q: %w", text, err)
	}
	// Fields from the third (state) on; proc(5) counts from 1.
	fields := strings.Fields(string(text[end+1:]))
	const first = 3
	number := func(field int) int64 {
		if err != nil {
			return 0
		}
		if field-first >= len(fields) {
			err = fmt.Errorf("no field %d in %q", field, text)
			return 0
		}
		var n int64
		n, err = strconv.ParseInt(fields[field-first], 10, 64)
		return n
	}
	s := stat{
		pid: pid, parent: int(number(4)),
		own:      time.Duration(number(14)+number(15)) * clockTick,
		children: time.Duration(number(16)+number(17)) * clockTick,
	}
	return s, err
}

// parsePSS returns the proportional set size in bytes from the content of /proc/PID/smaps_rollup.
func parsePSS(text []byte) (int64, error) {
	for line := range bytes.Lines(text) {
		if value, ok := bytes.CutPrefix(line, []byte("Pss:")); ok {
			kib, err := strconv.ParseInt(strings.TrimSuffix(strings.TrimSpace(string(value)), " kB"), 10, 64)
			return kib << 10, err
		}
	}
	return 0, errors.New("no Pss in smaps_rollup")
}

// tree returns the processes of all that descend from root, with it.
func tree(all []stat, root int) []stat {
	children := map[int][]stat{}
	var found []stat
	for _, s := range all {
		children[s.parent] = append(children[s.parent], s)
		if s.pid == root {
			found = append(found, s)
		}
	}
	for i := 0; i < len(found); i++ { // found grows on the way
		found = append(found, children[found[i].pid]...)
	}
	return found
}

// treeUsage returns what the process and its descendants have used, with those that ended.
func treeUsage(pid int) (usage, error) {
	names, err := filepath.Glob("/proc/[0-9]*/stat")
	if err != nil {
		return usage{}, err
	}
	var all []stat
	for _, name := range names {
		s, err := readStat(name)
		if gone(err) {
			continue
		}
		if err != nil {
			return usage{}, err
		}
		all = append(all, s)
	}
	var u usage
	found := tree(all, pid)
	if len(found) == 0 {
		return usage{}, fmt.Errorf("process %d does not run", pid)
	}
	for _, s := range found {
		u.cpu += s.own + s.children
		memory, err := readPSS(s.pid)
		if err != nil && !gone(err) {
			return usage{}, err
		}
		u.memory += memory
	}
	return u, nil
}

// processUsage returns what one process alone has used.
func processUsage(pid int) (usage, error) {
	s, err := readStat(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return usage{}, err
	}
	memory, err := readPSS(pid)
	return usage{cpu: s.own, memory: memory}, err
}

func readStat(name string) (stat, error) {
	text, err := os.ReadFile(name)
	if err != nil {
		return stat{}, err
	}
	return parseStat(text)
}

func readPSS(pid int) (int64, error) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/smaps_rollup", pid))
	if err != nil {
		return 0, err
	}
	return parsePSS(text)
}

// settled waits until the processes rest, and returns what they have used then: work goes on for a
// while after the last message is through.
func settled(ctx context.Context, read func() (usage, error)) (usage, error) {
	const (
		period = 100 * time.Millisecond
		quiet  = 3  // periods in a row
		most   = 50 // periods in all: a server that works on for longer does so for reasons of its own
	)
	tick := time.NewTicker(period)
	defer tick.Stop()
	last, err := read()
	for calm, n := 0, 0; err == nil && calm < quiet && n < most; n++ {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return last, context.Cause(ctx)
		}
		var now usage
		if now, err = read(); err == nil {
			calm++
			if now.cpu-last.cpu > clockTick {
				calm = 0
			}
			last = now
		}
	}
	return last, err
}

// memoryWatch notes the largest memory of processes over a time.
type memoryWatch struct {
	done chan struct{}
	wait sync.WaitGroup
	peak int64 // valid after stop
}

// watchMemory looks now and then until stop is called. A look costs some ms with many processes.
func watchMemory(read func() (usage, error)) *memoryWatch {
	w := &memoryWatch{done: make(chan struct{})}
	w.wait.Go(func() {
		tick := time.NewTicker(500 * time.Millisecond)
		defer tick.Stop()
		for {
			select {
			case <-tick.C:
				if u, err := read(); err == nil { // an error shows again where CPU time is read
					w.peak = max(w.peak, u.memory)
				}
			case <-w.done:
				return
			}
		}
	})
	return w
}

func (w *memoryWatch) stop() int64 {
	close(w.done)
	w.wait.Wait()
	return w.peak
}

// Machine is where a run was made.
type Machine struct {
	CPUs       int    `json:"cpus"`
	Kernel     string `json:"kernel"`
	Go         string `json:"go"`
	FileSystem string `json:"file_system"` // of the servers' folders
	LoadBefore string `json:"load_before"` // of one, five and fifteen minutes
	LoadAfter  string `json:"load_after"`
}

func thisMachine(dir string) Machine {
	kernel, _ := os.ReadFile("/proc/sys/kernel/osrelease") // empty is as good as an answer here
	mounts, _ := os.ReadFile("/proc/self/mounts")
	return Machine{
		CPUs: runtime.NumCPU(), Kernel: strings.TrimSpace(string(kernel)), Go: runtime.Version(),
		FileSystem: fileSystem(string(mounts), dir), LoadBefore: loadAverage(),
	}
}

func loadAverage() string {
	text, _ := os.ReadFile("/proc/loadavg") // empty is as good as an answer here
	fields := strings.Fields(string(text))
	return strings.Join(fields[:min(3, len(fields))], " ")
}

// fileSystem returns the type of the file system that dir is on, from the content of
// /proc/self/mounts; empty if it is not there.
func fileSystem(mounts, dir string) string {
	kind, longest := "", 0
	for line := range strings.Lines(mounts) {
		f := strings.Fields(line)
		if len(f) < 3 {
			continue
		}
		point := strings.TrimSuffix(f[1], "/") + "/"
		if strings.HasPrefix(dir+"/", point) && len(point) >= longest {
			kind, longest = f[2], len(point)
		}
	}
	return kind
}

// gone tells that a process ended while it was looked at. A process that is only waited for has
// no memory map any more: ESRCH.
func gone(err error) bool {
	return errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ESRCH)
}
