package app

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	"carom/schemas/clock"
	"carom/schemas/event"
	"carom/schemas/service"
	"carom/schemas/smtpstatus"
	"carom/sender/account"
	"carom/sender/config"
	"carom/sender/deliver"
	"carom/sender/smtpd"
)

// openAccounting makes the recorder with all that it writes to, and what follows the log behind it.
func (n *node) openAccounting(sinks []account.Sink) error {
	c := n.config.Load()
	skip := deliver.Unaccounted(n.config.Load)
	names := map[string]bool{}
	for i := range c.AcctFiles {
		a := &c.AcctFiles[i]
		records, err := recordOptions(a, skip)
		if err != nil {
			return &service.ConfigError{Err: fmt.Errorf("%s: %w", a.Pos, err)}
		}
		if a.Webhook.URL == nil && len(a.Command) == 0 {
			file, err := account.OpenFile(n.fileOptions(a, records))
			if err != nil {
				return &service.ConfigError{Err: err}
			}
			n.opened(file.Close)
			sinks = append(sinks, file)
			continue
		}
		if err := n.openFollower(a, records, names); err != nil {
			return &service.ConfigError{Err: fmt.Errorf("%s: %w", a.Pos, err)}
		}
	}
	for i := range c.RejectLogs {
		a := &c.RejectLogs[i]
		records, err := recordOptions(a, nil)
		if err != nil {
			return &service.ConfigError{Err: fmt.Errorf("%s: %w", a.Pos, err)}
		}
		rejects, err := account.OpenRejectLog(n.fileOptions(a, records))
		if err != nil {
			return &service.ConfigError{Err: err}
		}
		n.opened(rejects.Close)
		n.rejects = append(n.rejects, rejects)
		sinks = append(sinks, rejects)
	}
	n.recorder = account.NewRecorder(n.events, n.spool, sinks, c.Hash(), n.logger)
	return n.openRules(c)
}

// openRules gives the recorder the operator's categories, and the privacy policy of the event log.
func (n *node) openRules(c *config.Config) error {
	n.recorder.Categorize(categories(c))
	policy, err := privacyPolicy(c.EventLog.Privacy)
	if err != nil {
		return &service.ConfigError{Err: err}
	}
	n.recorder.HideInLog(policy)
	return nil
}

// categories returns the operator's bounce categories, nil for none.
func categories(c *config.Config) *account.Categories {
	if len(c.BounceCategories) == 0 {
		return nil
	}
	rules := make([]account.CategoryRule, len(c.BounceCategories))
	for i, r := range c.BounceCategories {
		rules[i] = account.CategoryRule{Pattern: r.Pattern, Category: r.Category}
	}
	return account.NewCategories(rules)
}

func privacyPolicy(p config.Privacy) (*account.Privacy, error) {
	if p.Way == "" {
		return nil, nil //nolint:nilnil // nothing is hidden
	}
	return account.NewPrivacy(p.Way, []byte(p.Key.Reveal()))
}

func recordOptions(a *config.AcctFile, skip func(*event.Event) bool) (account.RecordOptions, error) {
	policy, err := privacyPolicy(a.Privacy)
	o := account.RecordOptions{
		Fields: a.Fields(), UserString: a.UserString, UnixTimes: !a.ISOTimes, Skip: skip, Privacy: policy,
	}
	for _, record := range a.Records {
		o.Records = append(o.Records, string(record))
	}
	for _, h := range a.HeaderFields {
		o.Headers = append(o.Headers, account.HeaderField{Type: string(h.Type), Header: h.Header, Field: h.Field})
	}
	if len(a.QueueFilter) > 0 {
		o.Queue = a.WantsQueue
	}
	return o, err
}

func (n *node) fileOptions(a *config.AcctFile, records account.RecordOptions) account.FileOptions {
	o := account.FileOptions{
		RecordOptions: records, Path: a.Path, MaxBytes: int64(a.MaxSize), MoveTo: a.MoveTo, Interval: a.MoveInterval,
		DeleteAfter: a.DeleteAfter, WorldReadable: a.WorldReadable, Sync: a.Sync,
	}
	if a.CountMoved {
		o.Moved = func(name string, records int64) {
			n.logger.Info("accounting file moved", "file", name, "records", records)
		}
	}
	return o
}

// longestRetry bounds the pause between two tries of a webhook.
const longestRetry = 5 * time.Minute

// openFollower opens what hands records to a program or a webhook.
func (n *node) openFollower(a *config.AcctFile, records account.RecordOptions, names map[string]bool) error {
	o := account.FollowerOptions{
		RecordOptions: records, Name: a.Path, Dir: n.config.Load().EventLog.Dir, From: n.events.Last() + 1, MaxBytes: account.PipeBytes,
		GiveUp: a.DeleteAfter, Logger: n.logger, Wait: func(int) time.Duration { return a.RetryInterval },
	}
	var receiver account.Receiver = account.NewPipe(a.Command, a.WriteTimeout)
	if w := a.Webhook; w.URL != nil {
		o.MaxBytes, o.Interval, o.Keyed = int64(a.MaxSize), w.MaxInterval, true
		o.Wait = func(failures int) time.Duration { return min(time.Second<<min(failures-1, 10), longestRetry) }
		headers := make([]string, len(w.Headers))
		for i, h := range w.Headers {
			headers[i] = h.Reveal()
		}
		hook, err := account.NewWebhook(account.WebhookOptions{
			URL: w.URL.String(), Headers: headers, Certificate: w.Certificate, CAFile: w.CAFile, Gzip: w.Gzip,
			ConnectTimeout: w.ConnectTimeout, IOTimeout: w.IOTimeout, Verbose: w.Verbose, Logger: n.logger,
		})
		if err != nil {
			return err
		}
		receiver = hook
	} else {
		o.Name = "|" + strings.Join(a.Command, " ")
	}
	for names[o.Name] {
		o.Name += "+" // the same program twice
	}
	names[o.Name] = true
	f, err := account.NewFollower(o, receiver)
	if err != nil {
		return err
	}
	n.followers = append(n.followers, f)
	return nil
}

// neededByFollowers returns the last event that all followers are done with, or last without any.
func (n *node) neededByFollowers(last uint64) uint64 {
	for _, f := range n.followers {
		last = min(last, f.Needed()-1)
	}
	return last
}

// rotate begins new accounting files.
func (n *node) rotate(ctx context.Context) {
	if err := n.recorder.Rotate(ctx); err != nil {
		n.logger.Error("accounting files not rotated", "error", err)
		return
	}
	n.logger.Info("accounting files rotated")
}

// RefusedConnection is part of smtpd.Intake.
func (n *node) RefusedConnection(client netip.Addr, listener string, r *smtpd.RefusalError) {
	for _, rejects := range n.rejects {
		e := &event.Event{Time: clock.Now().UTC(), ClientIP: client, Listener: listener}
		e.SetReply(smtpstatus.New(r.Code, fmt.Sprintf("%d.%d.%d %s", r.Enhanced[0], r.Enhanced[1], r.Enhanced[2], r.Text)))
		if err := rejects.RefusedConnection(e); err != nil {
			n.logger.Error("reject log lacks records", "error", err)
		}
	}
}

// reportHeaders returns the headers that accounting files want of the messages that reports are about.
func reportHeaders(c *config.Config) []string {
	_, names := c.MessageHeaders()
	for _, a := range c.AcctFiles {
		if slices.Contains(a.Records, config.FeedbackLoop) {
			return append(names, account.ComplaintHeaders()...)
		}
	}
	return names
}
