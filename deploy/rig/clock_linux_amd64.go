package rig

import (
	"bytes"
	"context"
	"debug/elf"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// clockGettime takes the place of __vdso_clock_gettime(clock, *timespec).
var clockGettime = []byte{
	0xb8, 0xe4, 0, 0, 0, // mov  eax, 228 (clock_gettime)
	0x0f, 0x05, // syscall
	0x85, 0xff, // test edi, edi
	0x75, 0x0a, // jne  done: only CLOCK_REALTIME, 0, moves
	0x48, 0x8b, 0x0d, 6, 0, 0, 0, // mov  rcx, [shift]
	0x48, 0x01, 0x0e, // add  [rsi], rcx
	0xc3,       // done: ret
	0x90, 0x90, // so that the shift is aligned, and is read and written whole
	0, 0, 0, 0, 0, 0, 0, 0, // shift
}

const shiftOffset = 24

// takeClock stops the process while it changes the function, so that no thread is in it.
func takeClock(ctx context.Context, pid int) (*Clock, error) {
	dir := filepath.Join("/proc", strconv.Itoa(pid))
	memory, err := os.OpenFile(filepath.Join(dir, "mem"), os.O_RDWR, 0)
	if err != nil {
		return nil, err
	}
	entry, err := findClock(dir, memory)
	if err == nil {
		err = stopOutside(ctx, pid, dir, entry, func() error {
			_, err := memory.WriteAt(clockGettime, entry)
			return err
		})
	}
	if err != nil {
		_ = memory.Close()
		return nil, fmt.Errorf("take the clock: %w", err)
	}
	return &Clock{memory: memory, shift: entry + shiftOffset}, nil
}

// findClock returns the address of the function in the process.
func findClock(dir string, memory *os.File) (int64, error) {
	maps, err := os.ReadFile(filepath.Join(dir, "maps")) //nolint:gosec // of our own child
	if err != nil {
		return 0, err
	}
	var start, end int64
	for line := range strings.Lines(string(maps)) {
		if strings.HasSuffix(line, "[vdso]\n") {
			if _, err := fmt.Sscanf(line, "%x-%x", &start, &end); err != nil {
				return 0, fmt.Errorf("%q: %w", line, err)
			}
		}
	}
	image := make([]byte, end-start)
	if _, err := memory.ReadAt(image, start); err != nil || len(image) == 0 {
		return 0, fmt.Errorf("read the vDSO: %w", err)
	}
	file, err := elf.NewFile(bytes.NewReader(image))
	if err != nil {
		return 0, fmt.Errorf("vDSO: %w", err)
	}
	symbols, err := file.DynamicSymbols()
	if err != nil {
		return 0, fmt.Errorf("vDSO: %w", err)
	}
	for _, s := range symbols {
		if s.Name == "__vdso_clock_gettime" && s.Size >= uint64(len(clockGettime)) && s.Value%8 == 0 {
			return start + int64(s.Value), nil //nolint:gosec // within the image
		}
	}
	return 0, errors.New("the vDSO has no clock_gettime as it should be")
}

// stopOutside does something while the process is stopped and no thread is in the function.
func stopOutside(ctx context.Context, pid int, dir string, entry int64, do func() error) error {
	return Until(ctx, 10*time.Second, "the node to stop outside its clock", func(context.Context) error {
		if err := syscall.Kill(pid, syscall.SIGSTOP); err != nil {
			return finalError{err}
		}
		defer func() { _ = syscall.Kill(pid, syscall.SIGCONT) }()
		threads, err := filepath.Glob(filepath.Join(dir, "task", "*"))
		if err != nil || len(threads) == 0 {
			return fmt.Errorf("no threads: %w", err)
		}
		for _, thread := range threads {
			if err := isOutside(thread, entry); err != nil {
				return err
			}
		}
		if err := do(); err != nil {
			return finalError{err}
		}
		return nil
	})
}

// isOutside returns an error if the thread is not stopped or is in the function.
func isOutside(thread string, entry int64) error {
	stat, err := os.ReadFile(filepath.Join(thread, "stat")) //nolint:gosec // of our own child
	if err != nil {
		return err
	}
	_, state, _ := strings.Cut(string(stat), ") ")
	if !strings.HasPrefix(state, "T") {
		return fmt.Errorf("a thread is in state %.1s", state)
	}
	call, err := os.ReadFile(filepath.Join(thread, "syscall")) //nolint:gosec // of our own child
	if err != nil {
		return err
	}
	fields := strings.Fields(string(call)) // the last one is the program counter (proc(5))
	at, err := strconv.ParseInt(strings.TrimPrefix(fields[len(fields)-1], "0x"), 16, 64)
	if err != nil {
		return fmt.Errorf("%q: %w", call, err)
	}
	if at > entry && at < entry+int64(len(clockGettime)) {
		return errors.New("a thread reads the clock")
	}
	return nil
}
