//! The model's W, W/2 and W/4 are the product's.

use recado_domain::limits;
use recado_model::bounds::Bounds;

#[test]
fn the_moments_of_the_model_are_in_the_proportions_of_the_product() {
    let world = Bounds { w: 4, handler_ahead: 1, ..Bounds::NOTHING };
    assert_eq!(limits::RESTAMP_AFTER * u32::from(world.w), limits::W * u32::from(world.half()));
    assert_eq!(limits::CLOCK_SKEW * u32::from(world.w), limits::W * u32::from(world.spread()));
}
