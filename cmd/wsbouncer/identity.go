package main

import (
	"context"

	"github.com/wsbouncer/wsbouncer/internal/adminapi"
)

type identityCmd struct {
	List    identityListCmd    `cmd:"" help:"List the users of login providers who have logged in here."`
	Disable identityDisableCmd `cmd:"" help:"Keep one out; ends its sessions and connections."`
	Enable  identityEnableCmd  `cmd:"" help:"Let a disabled one in again."`
}

type identityListCmd struct{ adminFlags }

// Run lists identities.
func (c *identityListCmd) Run(ctx context.Context, s *streams) error {
	return list(c.adminFlags, s,
		func(a *adminapi.Client, after string) (adminapi.Page[adminapi.Identity], error) {
			return a.Identities(ctx, after)
		},
		"ID LABEL ISSUER SUBJECT DISABLED LAST-LOGIN", func(i adminapi.Identity) []string {
			return []string{i.ID, i.Label, i.Issuer, i.Subject, yesNo(i.Disabled), when(i.Used)}
		})
}

type identityIDCmd struct {
	adminFlags
	ID string `arg:"" help:"Its subject here: ID-…"`
}

type identityDisableCmd struct{ identityIDCmd }

// Run disables an identity.
func (c *identityDisableCmd) Run(ctx context.Context, s *streams) error {
	return call(c.adminFlags, s, func(a *adminapi.Client) (done, error) { return done{true}, a.DisableIdentity(ctx, c.ID) },
		func(done) string { return "disabled " + c.ID + "; its sessions ended" })
}

type identityEnableCmd struct{ identityIDCmd }

// Run enables an identity.
func (c *identityEnableCmd) Run(ctx context.Context, s *streams) error {
	return call(c.adminFlags, s, func(a *adminapi.Client) (done, error) { return done{true}, a.EnableIdentity(ctx, c.ID) },
		func(done) string { return "enabled " + c.ID })
}
