//! The expected answer of every method to every caller, written by hand from the design and not from the rules under
//! test.

use std::collections::BTreeMap;
use tonic::Code;

/// The expected answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cell {
    /// Success of a read.
    Read,
    /// Success of a write that changes something.
    Done,
    /// Success of a write that has nothing to change.
    Same,
    /// An error, which changes nothing.
    Refused(Code, &'static str),
}

/// The columns. `@off`: the request names an inactive organization. `@gone`: it names a deleted one. All other requests
/// name an active organization. `off` alone is a deactivated user, who is an admin. `for-…` is a service with the scope
/// `act-as` on behalf of that user; `act-as` alone is a service with that scope that names no user. The first three
/// columns are callers without a valid credential; the credentials of `bad` and `expired` name the owner.
///
/// A caller accepts, declines and previews the invitation to their own address into the same organization. A caller
/// without an address uses the token of another user.
const USERS: &str = "
                        anonymous bad expired stranger other former off  member admin owner member@off owner@off member@gone owner@gone
CreateOrganization      cred      bad old     done     done  done   off  done   done  done  done       done      done        done
GetOrganization         cred      bad old     deny     deny  deny   off  read   read  read  read       read      deny        deny
ListOrganizations       cred      bad old     kind     kind  kind   kind kind   kind  kind  kind       kind      kind        kind
UpdateOrganization      cred      bad old     deny     deny  deny   off  role   done  done  role       shut      deny        deny
ActivateOrganization    cred      bad old     deny     deny  deny   off  role   role  same  role       done      deny        deny
DeactivateOrganization  cred      bad old     deny     deny  deny   off  role   role  done  role       same      deny        deny
DeleteOrganization      cred      bad old     deny     deny  deny   off  role   role  done  role       done      deny        deny
UndeleteOrganization    cred      bad old     deny     deny  deny   off  role   role  same  role       same      deny        done
AddMember               cred      bad old     deny     deny  deny   off  role   done  done  role       shut      deny        deny
EnsureMember            cred      bad old     deny     deny  deny   off  role   done  done  role       shut      deny        deny
BatchAddMembers         cred      bad old     deny     deny  deny   off  role   done  done  role       shut      deny        deny
GetMember               cred      bad old     deny     deny  deny   off  read   read  read  read       read      deny        deny
ListMembers             cred      bad old     deny     deny  deny   off  read   read  read  read       read      deny        deny
ListMembersWithPermission cred    bad old     deny     deny  deny   off  read   read  read  read       read      deny        deny
UpdateMember            cred      bad old     deny     deny  deny   off  role   done  done  role       shut      deny        deny
RemoveMember            cred      bad old     deny     deny  deny   off  role   done  done  role       shut      deny        deny
LeaveOrganization       cred      bad old     deny     deny  deny   off  done   done  owns  shut       shut      deny        deny
TransferOwnership       cred      bad old     deny     deny  deny   off  role   role  done  role       done      deny        deny
ListUserOrganizations   cred      bad old     read     read  read   off  read   read  read  read       read      read        read
CheckMembership         cred      bad old     kind     kind  kind   kind kind   kind  kind  kind       kind      kind        kind
BatchCheckMembership    cred      bad old     kind     kind  kind   kind kind   kind  kind  kind       kind      kind        kind
GetEffectivePermissions cred      bad old     kind     kind  kind   kind kind   kind  kind  kind       kind      kind        kind
BatchGetEffectivePermissions cred      bad old     kind     kind  kind   kind kind   kind  kind  kind       kind      kind        kind
ExplainCheck            cred      bad old     kind     kind  kind   kind kind   kind  kind  kind       kind      kind        kind
StreamChecks            cred      bad old     kind     kind  kind   kind kind   kind  kind  kind       kind      kind        kind
WatchEvents             cred      bad old     kind     kind  kind   kind kind   kind  kind  kind       kind      kind        kind
WatchMemberships        cred      bad old     kind     kind  kind   kind kind   kind  kind  kind       kind      kind        kind
ExportMemberships       cred      bad old     kind     kind  kind   kind kind   kind  kind  kind       kind      kind        kind
GetCaller               cred      bad old     read     read  read   off  read   read  read  read       read      read        read
PutUser                 cred      bad old     kind     kind  kind   kind kind   kind  kind  kind       kind      kind        kind
GetUser                 cred      bad old     read     read  read   off  read   read  read  read       read      read        read
ListUsers               cred      bad old     kind     kind  kind   kind kind   kind  kind  kind       kind      kind        kind
DeactivateUser          cred      bad old     kind     kind  kind   kind kind   kind  kind  kind       kind      kind        kind
ReactivateUser          cred      bad old     kind     kind  kind   kind kind   kind  kind  kind       kind      kind        kind
DeleteUser              cred      bad old     kind     kind  kind   kind kind   kind  kind  kind       kind      kind        kind
ReinstateUser           cred      bad old     kind     kind  kind   kind kind   kind  kind  kind       kind      kind        kind
CreateInvitation        cred      bad old     deny     deny  deny   off  role   done  done  role       shut      deny        deny
BatchCreateInvitations  cred      bad old     deny     deny  deny   off  role   done  done  role       shut      deny        deny
GetInvitation           cred      bad old     deny     deny  deny   off  role   read  read  role       read      deny        deny
ListInvitations         cred      bad old     deny     deny  deny   off  role   read  read  role       read      deny        deny
ListEvents              cred      bad old     deny     deny  deny   off  role   read  read  role       read      deny        read
ListUserEvents          cred      bad old     kind     kind  kind   kind kind   kind  kind  kind       kind      kind        kind
ListReceivedInvitations cred      bad old     read     read  read   off  read   read  read  read       read      read        read
PreviewInvitation       read      bad old     read     read  read   off  read   read  read  read       read      lost        lost
AcceptInvitation        cred      bad old     done     done  done   off  done   done  done  shut       shut      lost        lost
DeclineInvitation       cred      bad old     done     done  done   off  done   done  done  shut       shut      lost        lost
RevokeInvitation        cred      bad old     deny     deny  deny   off  role   done  done  role       shut      deny        deny
RemindInvitation        cred      bad old     deny     deny  deny   off  role   done  done  role       shut      deny        deny
GetAccessModel          cred      bad old     read     read  read   off  read   read  read  read       read      read        read
ApplyAccessModel        cred      bad old     kind     kind  kind   kind kind   kind  kind  kind       kind      kind        kind
EnableRoles             cred      bad old     kind     kind  kind   kind kind   kind  kind  kind       kind      kind        kind
ListModelEvents         cred      bad old     kind     kind  kind   kind kind   kind  kind  kind       kind      kind        kind
CreateRole              cred      bad old     deny     deny  deny   off  role   role  done  role       shut      deny        deny
GetRole                 cred      bad old     deny     deny  deny   off  role   read  read  role       read      deny        deny
ListRoles               cred      bad old     deny     deny  deny   off  role   read  read  role       read      deny        deny
UpdateRole              cred      bad old     deny     deny  deny   off  role   role  done  role       shut      deny        deny
DeleteRole              cred      bad old     deny     deny  deny   off  role   role  done  role       shut      deny        deny
";

const SERVICES: &str = "
                        check manage act-as operator manage@off manage@gone operator@gone for-owner for-member for-stranger operator-for-member
CreateOrganization      scope done   scope  done     done       done        done          done      done       done         done
GetOrganization         read  read   scope  read     read       none        read          read      read       deny         read
ListOrganizations       read  read   scope  read     read       read        read          kind      kind       kind         kind
UpdateOrganization      scope done   scope  done     shut       none        gone          done      role       deny         role
ActivateOrganization    scope scope  scope  same     scope      scope       gone          same      role       deny         role
DeactivateOrganization  scope scope  scope  done     scope      scope       gone          done      role       deny         role
DeleteOrganization      scope scope  scope  done     scope      scope       same          done      role       deny         role
UndeleteOrganization    scope scope  scope  same     scope      scope       done          same      role       deny         role
AddMember               scope done   scope  done     shut       none        gone          done      role       deny         role
EnsureMember            scope done   scope  done     shut       none        gone          done      role       deny         role
BatchAddMembers         scope done   scope  done     shut       none        gone          done      role       deny         role
GetMember               read  read   scope  read     read       none        read          read      read       deny         read
ListMembers             read  read   scope  read     read       none        read          read      read       deny         read
ListMembersWithPermission read  read   scope  read     read       none        read          read      read       deny         read
UpdateMember            scope done   scope  done     shut       none        gone          done      role       deny         role
RemoveMember            scope done   scope  done     shut       none        gone          done      role       deny         role
LeaveOrganization       scope kind   scope  kind     kind       none        kind          owns      done       deny         done
TransferOwnership       scope scope  scope  done     scope      scope       gone          done      role       deny         role
ListUserOrganizations   read  read   scope  read     read       read        read          read      read       read         read
CheckMembership         read  read   scope  read     read       read        read          kind      kind       kind         kind
BatchCheckMembership    read  read   scope  read     read       read        read          kind      kind       kind         kind
GetEffectivePermissions read  read   scope  read     read       read        read          kind      kind       kind         kind
BatchGetEffectivePermissions read  read   scope  read     read       read        read          kind      kind       kind         kind
ExplainCheck            read  read   scope  read     read       read        read          kind      kind       kind         kind
StreamChecks            read  read   scope  read     read       read        read          kind      kind       kind         kind
WatchEvents             scope read   scope  read     read       read        read          kind      kind       kind         kind
WatchMemberships        read  read   scope  read     read       read        read          kind      kind       kind         kind
ExportMemberships       read  read   scope  read     read       read        read          kind      kind       kind         kind
GetCaller               read  read   read   read     read       read        read          read      read       read         read
PutUser                 scope done   scope  done     done       done        done          kind      kind       kind         kind
GetUser                 read  read   scope  read     read       read        read          read      read       read         read
ListUsers               scope read   scope  read     read       read        read          kind      kind       kind         kind
DeactivateUser          scope done   scope  done     done       done        done          kind      kind       kind         kind
ReactivateUser          scope done   scope  done     done       done        done          kind      kind       kind         kind
DeleteUser              scope done   scope  done     done       done        done          kind      kind       kind         kind
ReinstateUser           scope scope  scope  done     scope      scope       done          kind      kind       kind         kind
CreateInvitation        scope done   scope  done     shut       none        gone          done      role       deny         role
BatchCreateInvitations  scope done   scope  done     shut       none        gone          done      role       deny         role
GetInvitation           scope read   scope  read     read       none        read          read      role       deny         role
ListInvitations         scope read   scope  read     read       none        read          read      role       deny         role
ListEvents              scope read   scope  read     read       none        read          read      role       deny         role
ListUserEvents          scope read   scope  read     read       read        read          kind      kind       kind         kind
ListReceivedInvitations scope scope  kind   kind     scope      scope       kind          read      read       read         read
PreviewInvitation       read  read   read   read     read       lost        lost          read      read       read         read
AcceptInvitation        scope scope  kind   kind     scope      scope       kind          done      done       done         done
DeclineInvitation       scope scope  kind   kind     scope      scope       kind          done      done       done         done
RevokeInvitation        scope done   scope  done     shut       none        gone          done      role       deny         role
RemindInvitation        scope done   scope  done     shut       none        gone          done      role       deny         role
GetAccessModel          read  read   read   read     read       read        read          read      read       read         read
ApplyAccessModel        scope scope  scope  done     scope      scope       done          kind      kind       kind         kind
EnableRoles             scope scope  scope  same     scope      scope       same          kind      kind       kind         kind
ListModelEvents         scope read   scope  read     read       read        read          kind      kind       kind         kind
CreateRole              scope scope  scope  done     scope      scope       gone          done      role       deny         role
GetRole                 scope read   scope  read     read       none        read          read      role       deny         role
ListRoles               scope read   scope  read     read       none        read          read      role       deny         role
UpdateRole              scope scope  scope  done     scope      scope       gone          done      role       deny         role
DeleteRole              scope scope  scope  done     scope      scope       gone          done      role       deny         role
";

fn cell(word: &str) -> Cell {
    match word {
        "read" => Cell::Read,
        "done" => Cell::Done,
        "same" => Cell::Same,
        "cred" => Cell::Refused(Code::Unauthenticated, "CREDENTIAL_MISSING"),
        "bad" => Cell::Refused(Code::Unauthenticated, "CREDENTIAL_INVALID"),
        "old" => Cell::Refused(Code::Unauthenticated, "CREDENTIAL_EXPIRED"),
        "deny" => Cell::Refused(Code::PermissionDenied, "PERMISSION_DENIED"),
        "role" => Cell::Refused(Code::PermissionDenied, "ROLE_LACKS_PERMISSION"),
        "kind" => Cell::Refused(Code::PermissionDenied, "CALLER_NOT_ALLOWED"),
        "scope" => Cell::Refused(Code::PermissionDenied, "SCOPE_MISSING"),
        "off" => Cell::Refused(Code::PermissionDenied, "CALLER_INACTIVE"),
        "none" => Cell::Refused(Code::NotFound, "ORGANIZATION_NOT_FOUND"),
        "owns" => Cell::Refused(Code::FailedPrecondition, "OWNERSHIP_REQUIRED"),
        "shut" => Cell::Refused(Code::FailedPrecondition, "ORGANIZATION_INACTIVE"),
        "lost" => Cell::Refused(Code::NotFound, "INVITATION_NOT_FOUND"),
        "gone" => Cell::Refused(Code::FailedPrecondition, "ORGANIZATION_DELETED"),
        unknown => panic!("unknown word in the table: {unknown}"),
    }
}

/// The row of a method: the expected answer for each column.
pub type Row = BTreeMap<&'static str, Cell>;

/// The rows of both tables, by method.
pub fn rows() -> BTreeMap<&'static str, Row> {
    let mut rows: BTreeMap<&str, Row> = BTreeMap::new();
    for table in [USERS, SERVICES] {
        let mut lines = table.lines().map(str::split_whitespace).skip(1);
        let columns: Vec<&str> = lines.next().unwrap().collect();
        for mut line in lines {
            let method = line.next().unwrap();
            let cells: Vec<Cell> = line.map(cell).collect();
            assert_eq!(cells.len(), columns.len(), "the row of {method}");
            for (column, cell) in columns.iter().zip(cells) {
                let twice = rows.entry(method).or_default().insert(column, cell);
                assert_eq!(twice, None, "{method} has two rows");
            }
        }
    }
    let widths: Vec<usize> = rows.values().map(BTreeMap::len).collect();
    assert!(widths.iter().all(|width| *width == widths[0]), "a method lacks a row in one of the tables");
    rows
}
