//! Names of users and groups, as the system knows them.

use nix::unistd::{Group, Uid, User};

/// A user by name or number.
pub(crate) fn parse_user(text: &str) -> Result<u32, String> {
    numbered(text, "user", || {
        let found = User::from_name(text)?;
        Ok(found.map(|user| user.uid.as_raw()))
    })
}

/// A group by name or number.
pub(crate) fn parse_group(text: &str) -> Result<u32, String> {
    numbered(text, "group", || {
        let found = Group::from_name(text)?;
        Ok(found.map(|group| group.gid.as_raw()))
    })
}

fn numbered(
    text: &str,
    what: &str,
    find: impl Fn() -> nix::Result<Option<u32>>,
) -> Result<u32, String> {
    if let Ok(number) = text.parse() {
        return Ok(number);
    }
    match find() {
        Ok(Some(number)) => Ok(number),
        Ok(None) => Err(format!("there is no {what} {text:?}")),
        Err(error) => Err(format!("the {what} {text:?} cannot be looked up: {error}")),
    }
}

/// What a user is called; `None` if nobody knows.
pub(crate) fn user_name(uid: u32) -> Option<String> {
    User::from_uid(Uid::from_raw(uid))
        .ok()
        .flatten()
        .map(|user| user.name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn users_and_groups_have_names_and_numbers() {
        assert_eq!(parse_user("root"), Ok(0));
        assert_eq!(parse_user("4711"), Ok(4711));
        assert_eq!(parse_group("0"), Ok(0));
        assert_eq!(user_name(0).as_deref(), Some("root"));
        let error = parse_user("no such user").unwrap_err();
        assert_eq!(error, "there is no user \"no such user\"");
        assert!(parse_group("-1").is_err());
    }
}
