//! Attributes: values of any type that user code keeps with a connection under a name.

use std::any::Any;
use std::collections::BTreeMap;
use std::fmt;

use super::destructors::Discarded;

type Values = BTreeMap<Box<str>, Box<dyn Any>>;

/// Values of any type by name. An empty collection owns no memory.
#[derive(Default)]
pub struct Attributes {
    /// Boxed: many connections have no attributes, and pay for one word only.
    values: Option<Box<Values>>,
}

impl Drop for Attributes {
    /// Drops the values. Their destructors are user code that runs in the middle of a turn, so
    /// their panics are caught here.
    fn drop(&mut self) {
        let _ = self.discard();
    }
}

impl Attributes {
    /// Drops all values; returns how many of their destructors panicked.
    pub(crate) fn discard(&mut self) -> u64 {
        let Some(values) = self.values.take() else { return 0 };
        let mut discarded = Discarded::default();
        discarded.drop_all(values.into_values());
        discarded.count()
    }

    /// Sets `key` to `value`; it replaces the previous value.
    pub fn set(&mut self, key: impl Into<String>, value: impl Any) {
        self.values.get_or_insert_default().insert(key.into().into_boxed_str(), Box::new(value));
    }

    /// The value of `key`, if there is one and it is a `T`.
    #[must_use]
    pub fn get<T: Any>(&self, key: &str) -> Option<&T> {
        self.value(key)?.downcast_ref()
    }

    /// The value of `key` to change in place, if there is one and it is a `T`.
    #[must_use]
    pub fn get_mut<T: Any>(&mut self, key: &str) -> Option<&mut T> {
        self.values.as_mut()?.get_mut(key)?.downcast_mut()
    }

    /// The value of `key`, if it was set from a `String` or a `&'static str`.
    #[must_use]
    pub fn string(&self, key: &str) -> Option<&str> {
        let value = self.value(key)?;
        value
            .downcast_ref::<String>()
            .map(String::as_str)
            .or_else(|| value.downcast_ref::<&'static str>().copied())
    }

    /// The value of `key`, if it was set from any primitive integer type and fits an `i64`.
    #[must_use]
    pub fn int(&self, key: &str) -> Option<i64> {
        let value = self.value(key)?;
        macro_rules! first_of {
            ($($integer:ty),*) => {
                $(if let Some(&number) = value.downcast_ref::<$integer>() { return i64::try_from(number).ok(); })*
            };
        }
        first_of!(i32, i64, u32, u64, usize, isize, u8, i8, u16, i16, u128, i128);
        None
    }

    fn value(&self, key: &str) -> Option<&dyn Any> {
        self.values.as_ref()?.get(key).map(|value| &**value)
    }

    /// Removes `key`; returns `true` if it was there.
    pub fn remove(&mut self, key: &str) -> bool {
        self.values.as_mut().is_some_and(|values| values.remove(key).is_some())
    }

    /// The names that are set, in alphabetical order.
    pub fn keys(&self) -> impl Iterator<Item = &str> {
        self.values.iter().flat_map(|values| values.keys()).map(|key| &**key)
    }

    /// The number of attributes.
    #[must_use]
    pub fn len(&self) -> usize {
        self.values.as_ref().map_or(0, |values| values.len())
    }

    /// Whether there are no attributes.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl fmt::Debug for Attributes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.keys()).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_getter_returns_none_for_a_wrong_type_or_a_missing_value() {
        let mut attributes = Attributes::default();
        attributes.set("name", "ada".to_owned());
        attributes.set("static", "lovelace");
        attributes.set("seen", 1);
        attributes.set("huge", u64::MAX);
        attributes.set("list", vec![1, 2]);
        assert_eq!(attributes.string("name"), Some("ada"));
        assert_eq!(attributes.string("static"), Some("lovelace"));
        assert_eq!(attributes.string("seen"), None);
        assert_eq!(attributes.string("missing"), None);
        assert_eq!(attributes.int("seen"), Some(1));
        assert_eq!(attributes.int("huge"), None, "it does not fit");
        assert_eq!(attributes.int("name"), None);
        assert_eq!(attributes.int("missing"), None);
        assert_eq!(attributes.get::<Vec<i32>>("list"), Some(&vec![1, 2]));
        assert_eq!(attributes.get::<Vec<u8>>("list"), None);
        attributes.get_mut::<Vec<i32>>("list").unwrap().push(3);
        assert_eq!(attributes.get::<Vec<i32>>("list").unwrap().len(), 3);
    }

    #[test]
    fn setting_again_replaces_also_with_another_type() {
        let mut attributes = Attributes::default();
        attributes.set("key", 1);
        attributes.set("key", "one");
        assert_eq!((attributes.int("key"), attributes.string("key")), (None, Some("one")));
        assert!(attributes.remove("key"));
        assert!(!attributes.remove("key"));
        assert!(attributes.is_empty());
    }
}
